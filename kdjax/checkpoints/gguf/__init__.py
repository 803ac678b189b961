"""GGUF files: architecture, tensors and tokenizer in one."""
