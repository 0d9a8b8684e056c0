"""The user's own folders for us, by the XDG convention."""

import os
from pathlib import Path

from contracts.errors import ConfigurationError


def user_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/tidelens`, or `~/.cache/tidelens`: what can be had again."""
    return _folder("XDG_CACHE_HOME", ".cache")


def user_data_dir() -> Path:
    """`$XDG_DATA_HOME/tidelens`, or `~/.local/share/tidelens`."""
    return _folder("XDG_DATA_HOME", ".local/share")


def _folder(variable: str, below_home: str) -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given) / "tidelens"
    try:
        return Path.home() / below_home / "tidelens"
    except RuntimeError:
        raise ConfigurationError(f"this user has no home folder: set HOME or {variable}") from None
