"""The merges of the index: rows of several segments become one new sealed segment in the background."""
