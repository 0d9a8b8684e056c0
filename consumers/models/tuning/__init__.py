"""The search for the best precision and batch size of a model on this machine."""
