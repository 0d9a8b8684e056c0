"""Encoder ownership: one encoder at a time holds a content partition."""
