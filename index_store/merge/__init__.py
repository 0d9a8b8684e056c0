"""The merges of the index: in the background, segments become one new sealed segment."""
