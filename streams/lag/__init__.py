"""Lag: how far encoders and index nodes are behind the log."""
