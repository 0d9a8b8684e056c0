"""The commands about the spaces of a collection, one module each."""
