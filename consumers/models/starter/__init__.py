"""The starter model, whose parts all come from PyPI."""
