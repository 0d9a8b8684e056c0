"""Segments: growing and sealed rows, and what readers see of them."""
