"""The file of precisions that were found best, in the user's cache folder. Imports no torch."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from contracts.atomic_write import atomic_write
from contracts.user_folders import make_private, user_cache_dir


def load_all() -> dict[str, Any]:
    """By key (choices.key_of); empty where there is no such file, or none of ours."""
    try:
        known = orjson.loads(_path().read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return known if isinstance(known, dict) else {}


def save_entry(key: str, choice: dict[str, Any]) -> None:
    """A folder that cannot be written is no failure: it is found again."""
    path = _path()
    with suppress(OSError):
        make_private(path.parent)
        atomic_write(path, orjson.dumps({**load_all(), key: choice}, option=orjson.OPT_INDENT_2))


def _path() -> Path:
    return user_cache_dir() / "precision.json"
