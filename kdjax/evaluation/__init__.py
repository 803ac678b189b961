"""How good a model is on held-out text, and how fast."""
