"""Hugging Face directories: families as tables, read and written."""
