"""Foreign files as they are, checked before they are believed."""

# The names of weights in one file, and of what lists those in several.
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
