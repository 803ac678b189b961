"""What an experiment measured, as types and on disk."""
