"""Search over one view of the index."""
