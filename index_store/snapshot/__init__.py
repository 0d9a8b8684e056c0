"""Snapshots of the index: written, listed, verified and restored."""
