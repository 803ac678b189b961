"""The decoder-only transformer as Flax Linen modules."""
