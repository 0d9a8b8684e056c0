"""The user's folders by the XDG convention, and folders that only this user can open."""

from collections.abc import Callable
from pathlib import Path

import platformdirs

from contracts.errors import ConfigurationError


def user_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/tidelens` or `~/.cache/tidelens`, for what can be fetched again."""
    return _folder(platformdirs.user_cache_path, "XDG_CACHE_HOME")


def user_data_dir() -> Path:
    """Return `$XDG_DATA_HOME/tidelens` or `~/.local/share/tidelens`."""
    return _folder(platformdirs.user_data_path, "XDG_DATA_HOME")


def make_private(folder: Path) -> None:
    """Create `folder` and missing parents for this user alone; existing folders are not changed.

    Raises OSError.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise


def is_open_to_others(folder: Path) -> bool:
    """Return whether other users of this machine may read `folder` or write there."""
    return bool(folder.stat().st_mode & 0o077)


def _folder(find: Callable[[str], Path], variable: str) -> Path:
    try:
        folder = find("tidelens")
    except RuntimeError:
        folder = Path("~")
    # Older versions of platformdirs return the path with its `~` where there is no home folder.
    if not folder.is_absolute():
        raise ConfigurationError(f"this user has no home folder: set HOME or {variable}")
    return folder
