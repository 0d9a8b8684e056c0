"""The bytes of an embedding record, version 1.

Value (little-endian):

    offset  size     what
    0       4        b"TLE" and the version, 0x01
    4       8        fingerprint of the space
    12      2        dim, uint16
    14      2        zero
    16      2 * dim  the unit vector, float16
    ...     rest     JSON object: "item", "text", "metadata"; absent members are null / empty

The key is the item's id. The headers are `source` (contracts.events.record.Source) and `appended`
(the append time of the content record in milliseconds since 1970, as ASCII). A null value is a
tombstone. It has the same headers, and `reason` ("code: message") if the record was refused.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from contracts.errors import RejectedRecord
from contracts.events.format_version import unknown_version
from contracts.events.record import OutRecord, Record, Source
from contracts.score import Vectors
from contracts.space import Space

VERSION = 1
_NAME = b"TLE"
MAGIC = _NAME + bytes([VERSION])
_HEAD = struct.Struct("<4s8sHH")


@dataclass(frozen=True, slots=True)
class Embedding:
    """The content of an embedding record; `vector` is None in a tombstone."""

    id: str
    source: Source
    appended_ms: int
    vector: Vectors | None = None
    item: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    reason: str | None = None


def encode_embedding(
    space: Space,
    vector: Vectors,
    *,
    item: str | None = None,
    text: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> bytes:
    """Return the value's bytes. `vector` is float16 of shape (space.dim,)."""
    if vector.shape != (space.dim,) or vector.dtype != np.float16:
        raise ValueError(f"want {space.dim} float16 numbers, got {vector.dtype}{vector.shape}")
    body = {"item": item, "text": text, "metadata": metadata or None}
    return b"".join(
        (
            _HEAD.pack(MAGIC, space.fingerprint, space.dim, 0),
            vector.astype("<f2", copy=False).tobytes(),
            orjson.dumps({name: value for name, value in body.items() if value is not None}),
        )
    )


def decode_embedding(space: Space, value: bytes) -> tuple[Vectors, dict[str, Any]]:
    """Return the vector, a read-only float16 view of `value` of shape (space.dim,), and the body.

    Raises RejectedRecord `invalid_embedding` or `unknown_embedding_version`, and SpaceMismatch for
    a vector of another space.
    """
    if len(value) < _HEAD.size:
        raise RejectedRecord("invalid_embedding", f"{len(value)} bytes are too few for the head")
    magic, fingerprint, dim, _ = _HEAD.unpack_from(value)
    if magic != MAGIC:
        raise _wrong_magic(magic)
    if fingerprint != space.fingerprint or dim != space.dim:
        space.require_same(fingerprint, where="an embedding")
        raise RejectedRecord("invalid_embedding", f"dim: want {space.dim}, got {dim}")
    end = _HEAD.size + 2 * dim
    if len(value) < end + 2:
        raise RejectedRecord("invalid_embedding", f"{len(value)} bytes are too few for dim {dim}")
    vector = np.frombuffer(value, dtype="<f2", count=dim, offset=_HEAD.size)
    try:
        body = orjson.loads(memoryview(value)[end:])
    except orjson.JSONDecodeError as error:
        raise RejectedRecord("invalid_embedding", f"body: not JSON ({error})") from None
    if not isinstance(body, dict):
        raise RejectedRecord("invalid_embedding", "body: want a JSON object")
    return vector, body


def _wrong_magic(magic: bytes) -> RejectedRecord:
    """Return the rejection of a record of another version, or of other bytes."""
    if magic.startswith(_NAME):
        return RejectedRecord(
            "unknown_embedding_version",
            unknown_version("embeddings record", magic[-1], VERSION),
            field="version",
            limit=VERSION,
            value=magic[-1],
        )
    return RejectedRecord("invalid_embedding", f"magic: want {MAGIC!r}, got {magic!r}")


def embedding_record(
    topic: str,
    content: Record,
    source: Source,
    value: bytes | None,
    *,
    reason: str | None = None,
) -> OutRecord:
    """Return the embedding record of `content`, with its key and partition.

    A `value` of None makes a tombstone.
    """
    headers = [("source", source.encode()), ("appended", str(content.timestamp_ms).encode())]
    if reason is not None:
        headers.append(("reason", reason.encode("utf-8", "backslashreplace")))
    return OutRecord(topic, content.key, value, headers, partition=content.partition)


def read_embedding(space: Space, record: Record) -> Embedding:
    """Parse an embedding record. Raises RejectedRecord or SpaceMismatch."""
    raw_source = record.header("source")
    try:
        if raw_source is None or record.key is None:
            raise ValueError("the key or the header `source` is missing")
        source = Source.decode(raw_source)
        item_id = record.key.decode()
        appended = int(record.header("appended") or record.timestamp_ms)
    except ValueError as error:
        raise RejectedRecord("invalid_embedding", str(error), field="source") from None
    if record.value is None:
        reason = record.header("reason")
        return Embedding(
            item_id, source, appended, reason=reason.decode("utf-8", "replace") if reason else None
        )
    vector, body = decode_embedding(space, record.value)
    return Embedding(
        item_id,
        source,
        appended,
        vector,
        body.get("item"),
        body.get("text"),
        body.get("metadata") or {},
    )
