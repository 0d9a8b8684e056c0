"""Migration to a new space: re-encode, compare and switch."""
