"""Folders: whether they exist, are writable and have room."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.settings import KafkaSettings, Settings
from contracts.user_folders import is_open_to_others, user_cache_dir
from tidelens.cli.doctor.finding import Finding, failed, in_thread, ok, skipped, warning

_GIB = 1024**3
_FREE_MIN = 1 * _GIB
_FREE_GOOD = 5 * _GIB


@in_thread
def disk(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the data directory, the caches of downloads, and the room on their disks."""
    data = folder("data directory", settings.data, "TIDELENS_DATA")
    return [
        data,
        *(_private(settings.data) if data.state != "failed" else []),
        folder("cache", user_cache_dir(), "XDG_CACHE_HOME"),
    ]


def _private(data: Path) -> Sequence[Finding]:
    if not data.is_dir() or not is_open_to_others(data):
        return []
    detail = "data directory: other users of this machine may look into it"
    return [warning("disk", detail, fix=f"chmod 700 {data}")]


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that has `path`."""
    return shutil.disk_usage(path).free


def folder(
    what: str, path: Path, variable: str, *, free: Callable[[Path], int] = free_bytes
) -> Finding:
    """Check whether `path` can be written or made, and the room on its disk."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    fix = f"{variable}=FOLDER: one that can be written"
    try:
        _write(there, probe=there == path.absolute())
    except OSError as error:
        return failed("disk", f"{what} {path}: {error.strerror} ({there})", fix=fix)
    room = free(there)
    detail = f"{what}: {room / _GIB:.1f} GiB free"
    fix = f"free some space, or {variable}=FOLDER: one on another disk"
    if room < _FREE_MIN:
        return failed("disk", f"{detail}, want {_FREE_MIN // _GIB} at least", fix=fix)
    if room < _FREE_GOOD:
        return warning("disk", f"{detail}, {_FREE_GOOD // _GIB} are better", fix=fix)
    return ok("disk", detail)


@in_thread
def allow_roots(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the folders that file: references may point into; each must be readable."""
    roots = settings.allow_roots
    fix = "TIDELENS_ALLOW_ROOTS: name folders that are there and can be read"
    wrong = [root for root in roots if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK))]
    if wrong:
        return [
            failed("allow roots", f"{root}: not a folder that can be read", fix=fix)
            for root in wrong
        ]
    if not roots:
        return [skipped("allow roots", "none, so that file: references are refused")]
    return [ok("allow roots", f"{len(roots)} there")]


def _write(there: Path, *, probe: bool) -> None:
    """Write into the folder, or only check the permission if it does not exist yet.

    Raises OSError.
    """
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
    if probe:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"tidelens doctor")
    elif not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "Permission denied")
