"""`tidelens doctor`: the checks of this machine, its broker and its collection."""
