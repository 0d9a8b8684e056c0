"""The file of the best precisions, in the user's cache folder, read without torch."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from contracts.atomic_write import atomic_write
from contracts.user_folders import make_private, user_cache_dir


def load_all() -> dict[str, Any]:
    """Return all entries by key (chosen_precision.key_of); none if there is no such file."""
    try:
        known = orjson.loads(_path().read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return known if isinstance(known, dict) else {}


def save_entry(key: str, choice: dict[str, Any]) -> None:
    """Write one entry, unless the folder cannot be written: the next start then probes again."""
    path = _path()
    with suppress(OSError):
        make_private(path.parent)
        atomic_write(path, orjson.dumps({**load_all(), key: choice}, option=orjson.OPT_INDENT_2))


def _path() -> Path:
    return user_cache_dir() / "precision.json"
