"""The reader of embedding records, and of what is wrong with those that cannot be read.

The bytes are those of contracts.events.embedding_record. A record of the usual form is read here
directly (4 us against 33); any other goes through `read_embedding`, so that one function says what
is wrong.

An unreadable record takes its item out, like a tombstone. Keeping the item's old state would look
kinder, but compaction drops the old record and keeps the bad one, so that a replay could not come
to the same state: only "the last record of a key wins, readable or not" is a function of offsets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from contracts.errors import RejectedRecord, SpaceMismatch, TidelensError
from contracts.events.embedding_record import encode_embedding, read_embedding
from contracts.events.record import Record, Source
from contracts.score import Vectors
from contracts.space import Space
from contracts.topics import Target
from index_store import digest
from index_store.segment.rows import Origin, Rows

# Lengths of unit vectors in float16 differ from 1 by less than 0.001. The exact score relies on
# sums below 2, so a vector of another length (or not finite) would break the order.
_LENGTH_SLACK = 0.01
_ORIGINS_MAX = 10_000

RejectedEntry = tuple[Record, TidelensError]


class IndexRecord(NamedTuple):
    """One embedding record, as the index takes it: the new state of an id.

    `vector` are float16 bytes; None takes the id out. `origin` is None if the source cannot be
    read. `reason` says why a content record was refused.
    """

    id: str
    partition: int
    origin: Origin | None
    offset: int
    appended_ms: int
    vector: bytes | None = None
    item: str | None = None
    text: str | None = None
    metadata: Mapping[str, Any] | None = None
    reason: str | None = None


class RecordReader:
    """The reader of the embedding records of one space and target."""

    def __init__(self, space: Space, target: Target) -> None:
        self._space = space
        self._target = target
        size = 2 * space.dim
        # Every value of this space begins alike; an empty body is the two bytes {}.
        self._head = encode_embedding(space, np.zeros(space.dim, np.float16))[: -size - 2]
        self._end = len(self._head) + size
        self._origins: dict[bytes, Origin] = {}

    def read(
        self, partition: int, records: Sequence[Record]
    ) -> tuple[list[IndexRecord], list[RejectedEntry]]:
        """Read each record; return also those that are refused, whose ids are taken out."""
        readings: list[IndexRecord] = []
        rejected: list[RejectedEntry] = []
        for record in records:
            try:
                reading = self._read_fast(partition, record) or self._read_slowly(partition, record)
            except (RejectedRecord, SpaceMismatch) as error:
                rejected.append((record, error))
                reading = self._refused(partition, record, error)
            readings.append(reading)
        for number, length in self._not_of_length_one(readings):
            bad_length = RejectedRecord(
                "invalid_embedding",
                f"vector: want length 1, got {length:.4g}",
                field="vector",
                value=length,
            )
            rejected.append((records[number], bad_length))
            readings[number] = readings[number]._replace(vector=None, reason=_reason(bad_length))
        return readings, rejected

    def rows(self, readings: Sequence[IndexRecord]) -> Rows:
        """Return records as rows; all of them have a vector and a source."""
        metadata, hashes, origins = [], [], []
        for reading in readings:
            assert reading.vector is not None and reading.origin is not None
            data = digest.canonical_metadata(reading.metadata) if reading.metadata else None
            hashed = digest.item_hash(
                self._target,
                reading.id,
                (*reading.origin, reading.offset),
                reading.vector,
                reading.item,
                reading.text,
                data,
            )
            metadata.append(data)
            hashes.append(hashed)
            origins.append(reading.origin)
        return Rows(
            [reading.id for reading in readings],
            [reading.item for reading in readings],
            [reading.text for reading in readings],
            metadata,
            origins,
            np.array([reading.offset for reading in readings], np.int64),
            np.array([reading.appended_ms for reading in readings], np.int64),
            np.array([reading.partition for reading in readings], np.int32),
            digest.stack_hashes(hashes),
            self._vectors(readings),
        )

    def _read_fast(self, partition: int, record: Record) -> IndexRecord | None:
        """Read a record of the usual form fast; return None if `read_embedding` must read it."""
        source = appended = reason = None
        for name, raw in record.headers:
            if name == "source":
                source = raw
            elif name == "appended":
                appended = raw
            elif name == "reason":
                reason = raw
        if record.key is None or source is None:
            return None
        try:
            value = record.value
            item_id = record.key.decode() if value is not None else _any_id(record)
            origin, offset = self._source(source)
            appended_ms = int(appended) if appended else record.timestamp_ms
            if value is None:
                text = reason.decode("utf-8", "replace") if reason else None
                return IndexRecord(item_id, partition, origin, offset, appended_ms, reason=text)
            if not value.startswith(self._head):
                return None
            vector, body = value[len(self._head) : self._end], orjson.loads(value[self._end :])
            if len(vector) != self._end - len(self._head) or not isinstance(body, dict):
                return None
        except ValueError:
            return None
        item, text, metadata = body.get("item"), body.get("text"), body.get("metadata")
        if not _well_typed(item, text, metadata):
            return None
        return IndexRecord(
            item_id, partition, origin, offset, appended_ms, vector, item, text, metadata
        )

    def _read_slowly(self, partition: int, record: Record) -> IndexRecord:
        """Read any record. Raises RejectedRecord or SpaceMismatch."""
        found = read_embedding(self._space, record)
        if not _well_typed(found.item, found.text, found.metadata):
            raise RejectedRecord(
                "invalid_embedding",
                "body: want item and text to be strings, and metadata an object",
                field="body",
            )
        return IndexRecord(
            found.id,
            partition,
            (found.source.topic_id, found.source.partition),
            found.source.offset,
            found.appended_ms,
            None if found.vector is None else found.vector.tobytes(),
            found.item,
            found.text,
            found.metadata,
            found.reason,
        )

    def _refused(self, partition: int, record: Record, error: TidelensError) -> IndexRecord:
        item_id, at = _any_id(record), record.timestamp_ms
        try:
            origin, offset = self._source(record.header("source") or b"")
        except ValueError:
            return IndexRecord(item_id, partition, None, -1, at)
        return IndexRecord(item_id, partition, origin, offset, at, reason=_reason(error))

    def _source(self, raw: bytes) -> tuple[Origin, int]:
        """Parse a source into origin and offset. Raises ValueError.

        All records of a content partition share one origin object.
        """
        before, _, offset = raw.rpartition(b":")
        origin = self._origins.get(before)
        if origin is None:
            source = Source.decode(raw)
            if len(self._origins) >= _ORIGINS_MAX:
                self._origins.clear()
            origin = self._origins[before] = (source.topic_id, source.partition)
        return origin, int(offset)

    def _not_of_length_one(self, readings: Sequence[IndexRecord]) -> list[tuple[int, float]]:
        """Return the positions of vectors that are not of length 1, with their lengths."""
        filled = [n for n, reading in enumerate(readings) if reading.vector is not None]
        vectors = self._vectors([readings[n] for n in filled]).astype(np.float32)
        lengths: NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        # Written so that NaN is found too.
        bad = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_SLACK))
        return [(filled[n], float(lengths[n])) for n in bad.tolist()]

    def _vectors(self, readings: Sequence[IndexRecord]) -> Vectors:
        joined = b"".join([reading.vector or b"" for reading in readings])
        return np.frombuffer(joined, "<f2").reshape(-1, self._space.dim)


def _any_id(record: Record) -> str:
    """Return the id to take out. A key that is not UTF-8 becomes one that no item can have.

    Encoders write such tombstones, so that every content record is answered.
    """
    return (record.key or b"").decode("utf-8", "surrogateescape")


def _reason(error: TidelensError) -> str:
    return f"{error.code if isinstance(error, RejectedRecord) else 'wrong_space'}: {error}"


def _well_typed(item: Any, text: Any, metadata: Any) -> bool:
    return (
        (item is None or isinstance(item, str))
        and (text is None or isinstance(text, str))
        and (metadata is None or isinstance(metadata, dict))
    )
