"""The registries of a collection: its spaces and its dead letters."""
