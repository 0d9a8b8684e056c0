"""The manifest of a snapshot: a JSON document with checksums of itself and of all blobs."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from contracts.errors import SnapshotRefused, UnknownFormat
from contracts.events.format_version import unknown_version
from contracts.events.record import TopicPartition
from contracts.topics import Target
from index_store.index import Index
from index_store.view import HighestSource, IndexView

# The version of the manifest and of the parts that it names. To raise it, let `read_manifest` and
# the readers of parts accept this version as well as the new one, add a snapshot of this version to
# tests/artefacts, and change the table in docs/formats.md.
FORMAT = 2

Manifest = dict[str, Any]
# The manifest's entry of a blob: its name, bytes and sha256.
Blob = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplayState:
    """The part of an index's state that is not in a view.

    Take it before the view: state that is older than the rows is harmless, newer state would be
    false. `caught_up_at` has the time, in seconds since 1970, up to which each partition was read,
    and `reasons` has why content records were refused.
    """

    caught_up_at: dict[TopicPartition, float]
    reasons: list[tuple[Target, int, int, str]]

    @classmethod
    def of(cls, index: Index) -> "ReplayState":
        """Copy the state of `index` as it is now."""
        return cls(dict(index.caught_up_at), index.rejection_reasons())


def make_manifest(index: Index, view: IndexView, state: ReplayState) -> Manifest:
    """Make the manifest of a view, without `parts` and `alive`, which the writer adds."""
    return {
        "created": time.time(),
        "space": asdict(index.space) | {"fingerprint": index.space.fingerprint.hex()},
        "topic_ids": index.topic_ids,
        "partitions": index.partitions,
        "items": {target: view.count(target) for target in view.readers},
        "positions": [[*partition, value] for partition, value in view.positions.items()],
        "highest": [[*tp, *origin, offset] for tp, (origin, offset) in view.highest.items()],
        "caught_up_at": [[*partition, at] for partition, at in state.caught_up_at.items()],
        "reasons": state.reasons,
        "digests": view.digests_by_partition(),
    }


def with_checksum(manifest: Manifest) -> bytes:
    """Return the bytes of manifest.json: the manifest with its format and its SHA-256."""
    digest = sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS))
    return orjson.dumps({"format": FORMAT, "sha256": digest, "manifest": manifest})


def read_manifest(raw: bytes) -> Manifest:
    """Return the manifest in manifest.json's bytes. Raises SnapshotRefused, UnknownFormat."""
    try:
        document = orjson.loads(raw)
        found = document["format"]
        if found != FORMAT:
            raise UnknownFormat(unknown_version("snapshot manifest", found, FORMAT))
        digest, manifest = document["sha256"], document["manifest"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise SnapshotRefused(f"manifest.json: unreadable ({error!r})") from None
    if sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)) != digest:
        raise SnapshotRefused("manifest.json: the bytes are not those written (SHA-256)")
    result: Manifest = manifest
    return result


def require_same_log(manifest: Manifest, index: Index) -> None:
    """Raise SnapshotRefused unless the snapshot is of the same space and log as `index`."""
    fingerprint = index.space.fingerprint.hex()
    if manifest["space"]["fingerprint"] != fingerprint:
        raise SnapshotRefused(
            f"space: want {index.space.name} ({fingerprint}), "
            f"got {manifest['space']['name']} ({manifest['space']['fingerprint']})"
        )
    for member, wanted in (("topic_ids", index.topic_ids), ("partitions", index.partitions)):
        if manifest[member] != wanted:
            raise SnapshotRefused(f"{member}: today {wanted}, the snapshot has {manifest[member]}")


def positions(manifest: Manifest) -> dict[TopicPartition, int]:
    """Return the position of each embeddings partition."""
    return {partition: value for partition, (value,) in _by_partition(manifest["positions"])}


def highest(manifest: Manifest) -> dict[TopicPartition, HighestSource]:
    """Return the newest content record that each embeddings partition shows."""
    rows = _by_partition(manifest["highest"])
    return {partition: ((topic_id, n), offset) for partition, (topic_id, n, offset) in rows}


def caught_up_at(manifest: Manifest) -> dict[TopicPartition, float]:
    """Return the time, in seconds since 1970, up to which each partition was read."""
    return {partition: at for partition, (at,) in _by_partition(manifest["caught_up_at"])}


def require_blob(blob: Blob, data: bytes) -> None:
    """Raise SnapshotRefused unless `data` has the size and the SHA-256 of `blob`."""
    if len(data) != blob["bytes"]:
        raise SnapshotRefused(f"{blob['name']}: want {blob['bytes']} bytes, got {len(data)}")
    if sha256(data) != blob["sha256"]:
        raise SnapshotRefused(f"{blob['name']}: the bytes are not those written (SHA-256)")


def require_file(blob: Blob, path: Path) -> None:
    """Raise as `require_blob` does for a file, without reading it into memory at once."""
    size = path.stat().st_size
    if size != blob["bytes"]:
        raise SnapshotRefused(f"{blob['name']}: want {blob['bytes']} bytes, got {size}")
    if sha256_of(path) != blob["sha256"]:
        raise SnapshotRefused(f"{blob['name']}: the bytes are not those written (SHA-256)")


def describe_blob(name: str, path: Path) -> Blob:
    """Return the manifest's entry of a blob with the bytes of a file. Raises OSError."""
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def segment_names(manifest: Mapping[str, Any]) -> set[str]:
    """Return the names of the segments that the snapshot needs."""
    return {part["name"] for part in manifest["parts"]}


def _by_partition(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[TopicPartition, list[Any]]]:
    for topic, number, *values in rows:
        yield TopicPartition(topic, number), values
