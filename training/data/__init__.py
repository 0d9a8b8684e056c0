"""Training data and sample streams."""
