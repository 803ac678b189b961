"""How good a model is on held-out text and on questions, and how fast."""
