"""Pictures: from a stranger's bytes to the pixels that a model takes."""
