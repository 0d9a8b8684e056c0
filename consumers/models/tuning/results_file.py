"""The file of precisions that were found best, in the user's cache folder. Imports no torch."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from contracts.user_folders import make_private, user_cache_dir


def everything() -> dict[str, Any]:
    """By key (choices.key_of); empty where there is no such file, or none of ours."""
    try:
        known = orjson.loads(_path().read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return known if isinstance(known, dict) else {}


def add(key: str, choice: dict[str, Any]) -> None:
    """A folder that cannot be written is no failure: it is found again."""
    path = _path()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make_private(path.parent)
        partial.write_bytes(orjson.dumps({**everything(), key: choice}, option=orjson.OPT_INDENT_2))
        partial.replace(path)
    except OSError:
        # A read-only file system refuses this too, even where there is no file.
        with suppress(OSError):
            partial.unlink()


def _path() -> Path:
    return user_cache_dir() / "precision.json"
