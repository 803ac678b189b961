"""A student pruned from its teacher: what matters, and what stays."""
