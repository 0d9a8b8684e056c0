"""The merges of the index: rows of several segments become one sealed segment, in the background."""
