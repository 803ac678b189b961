"""Text out of a model: prompts in, continuations out."""
