"""The store of snapshots: the check does everything with it that a node does, below its prefix."""

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from contracts.ports.blob_store import BlobStore
from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.finding import Finding, failed, from_error, ok, skipped

if TYPE_CHECKING:
    from index_store.storage.s3 import S3BlobStore

# This is below the bound of a check, so that the line can say which step hangs.
_BOUND_S = 8.0
_CLEAN_UP_S = 0.5
_WANTED = b"tidelens doctor"
_FIX = "TIDELENS_SNAPSHOTS, and AWS_* for S3: a store that we may write, read, list and delete in"
# The permissions that each step needs of S3; without them no snapshot is written.
_PERMISSIONS = {
    "write": "s3:PutObject",
    "read": "s3:GetObject",
    "list": "s3:ListBucket, on the bucket itself",
    "write in parts": "s3:PutObject",
    "abort an upload": "s3:AbortMultipartUpload",
    "delete": "s3:DeleteObject",
}

Step = Callable[[], Awaitable[None]]


async def bucket(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Write, read, list and delete as a snapshot does; a line for each of these that fails."""
    if settings.snapshots is None:
        return [skipped("bucket", "snapshots go into the data directory")]
    from index_store.storage.open import open_blob_store

    step = "open"
    findings: list[Finding] = []
    try:
        async with (
            asyncio.timeout(_BOUND_S),
            open_blob_store(settings.snapshots, settings.data / "snapshots") as blobs,
            _steps(blobs) as steps,
        ):
            for step, act in steps.items():
                try:
                    await act()
                except OSError as error:
                    findings.append(_failed(step, error))
                    if step == "write":
                        break  # there is nothing to read
    except TimeoutError:
        return [
            *findings,
            failed("bucket", f"{step}: no answer within {_BOUND_S:g} s", fix=_FIX),
        ]
    except OSError as error:
        return [*findings, from_error("bucket", error, fix=_FIX)]
    done = "written, read, listed, deleted"
    return findings or [ok("bucket", f"{settings.snapshots}: {done}")]


@asynccontextmanager
async def _steps(blobs: BlobStore) -> AsyncIterator[Mapping[str, Step]]:
    """Yield the steps in order, by name; delete at the end what they left, if possible."""
    from index_store.storage.local import LocalBlobStore

    # Snapshots are four levels deep, SPACE/SHARD/REPLICA/..., so no node takes this for its own.
    name = f"doctor/{uuid.uuid4().hex}"

    steps: dict[str, Step] = {
        "write": lambda: blobs.write(name, _WANTED),
        "read": lambda: _read(blobs, name),
        "list": lambda: _list(blobs, name),
    }
    if not isinstance(blobs, LocalBlobStore):
        steps |= _in_parts(cast("S3BlobStore", blobs), f"{name}-parts")
    try:
        yield steps | {"delete": lambda: blobs.delete(name)}
    finally:
        for left in (name, f"{name}-parts"):
            with suppress(OSError):
                async with asyncio.timeout(_CLEAN_UP_S):
                    await blobs.delete(left)


async def _read(blobs: BlobStore, name: str) -> None:
    """Raise OSError if the blob is not there, or is not what was written."""
    try:
        found = await blobs.read(name)
    except KeyError:
        raise OSError(f"{name}: written, but not in the store") from None
    if found != _WANTED:
        raise OSError(f"{name} came back as {len(found)} other bytes")


async def _list(blobs: BlobStore, name: str) -> None:
    """Raise OSError if the listing does not have the blob with its size."""
    found = await blobs.sizes(f"{name.rpartition('/')[0]}/")
    if found.get(name) != len(_WANTED):
        raise OSError(f"{name}: written, but not in the listing")


def _in_parts(blobs: "S3BlobStore", name: str) -> Mapping[str, Step]:
    """Upload as segments are uploaded; a single part may be small."""

    async def write() -> None:
        path = await asyncio.to_thread(_file_to_upload)
        try:
            await blobs.upload_in_parts(name, path, len(_WANTED))
        finally:
            await asyncio.to_thread(path.unlink)

    async def abort() -> None:
        await blobs.abort_upload(await blobs.begin_upload(name))

    return {"write in parts": write, "abort an upload": abort}


def _file_to_upload() -> Path:
    handle, path = tempfile.mkstemp()
    os.write(handle, _WANTED)
    os.close(handle)
    return Path(path)


def _failed(step: str, error: OSError) -> Finding:
    message = str(error) or type(error).__name__
    if "AccessDenied" in message:
        fix = f"allow {_PERMISSIONS[step]}, without which no snapshot is written or kept in order"
        return failed("bucket", f"{step}: {message}", fix=fix)
    return failed("bucket", f"{step}: {message}", fix=_FIX)
