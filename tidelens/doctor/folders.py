"""Folders and the bucket: there, writable, with room."""

import asyncio
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.settings import KafkaSettings, Settings
from contracts.user_folders import open_to_others, user_cache_dir
from tidelens.doctor.finding import Finding, failed, in_thread, ok, skipped, told, warning

_GIB = 1024**3
_FREE_MIN = 1 * _GIB
_FREE_GOOD = 5 * _GIB
# Below the bound of a check, so that the line can say what to look at.
_BUCKET_S = 8.0


@in_thread
def disk(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Where Kafka, segments and snapshots go, and where what is downloaded stays."""
    data = folder("data directory", settings.data, "TIDELENS_DATA")
    return [
        data,
        *(_private(settings.data) if data.state != "failed" else []),
        folder("cache", user_cache_dir(), "XDG_CACHE_HOME"),
    ]


def _private(data: Path) -> Sequence[Finding]:
    if not data.is_dir() or not open_to_others(data):
        return []
    detail = "data directory: other users of this machine may look into it"
    return [warning("disk", detail, fix=f"chmod 700 {data}")]


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


def folder(
    what: str, path: Path, variable: str, *, free: Callable[[Path], int] = free_bytes
) -> Finding:
    """Whether `path` can be written, or made, and the room of its disk."""
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


async def bucket(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """A blob is written, read and deleted, as a snapshot's are."""
    if settings.snapshots is None:
        return [skipped("bucket", "snapshots go into the data directory")]
    from index_store.stores import open_blobs

    # Snapshots are four levels deep, SPACE/SHARD/REPLICA/..., so that nobody takes it for theirs.
    name, wanted = f"doctor/{uuid.uuid4().hex}", b"tidelens doctor"
    fix = "TIDELENS_SNAPSHOTS, and AWS_* for S3: a store that we may write, read and delete in"
    try:
        async with (
            asyncio.timeout(_BUCKET_S),
            open_blobs(settings.snapshots, settings.data / "snapshots") as blobs,
        ):
            await blobs.write(name, wanted)
            try:
                read = await blobs.read(name)
            finally:
                await blobs.delete(name)
    except TimeoutError:
        return [failed("bucket", f"no answer within {_BUCKET_S:g} s", fix=fix)]
    except OSError as error:
        return [told("bucket", error, fix=fix)]
    if read != wanted:
        return [failed("bucket", f"{name} came back as {len(read)} other bytes", fix=fix)]
    return [ok("bucket", f"{settings.snapshots}: written, read, deleted")]


@in_thread
def allow_roots(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Of file: references; a folder that is not there refuses all of them."""
    roots = settings.allow_roots
    fix = "TIDELENS_ALLOW_ROOTS: name folders that are there and can be read"
    wrong = [root for root in roots if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK))]
    if wrong:
        return [failed("allow roots", f"{root}: no folder to read", fix=fix) for root in wrong]
    if not roots:
        return [skipped("allow roots", "none, so that file: references are refused")]
    return [ok("allow roots", f"{len(roots)} there")]


def _write(there: Path, *, probe: bool) -> None:
    """Into the folder itself; above one that does not exist yet, only ask whether we may."""
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
    if probe:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"tidelens doctor")
    elif not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "Permission denied")
