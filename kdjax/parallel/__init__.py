"""Where arrays live: the mesh, and rules by parameter path."""
