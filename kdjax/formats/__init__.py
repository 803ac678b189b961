"""Foreign files as they are, checked before they are believed."""
