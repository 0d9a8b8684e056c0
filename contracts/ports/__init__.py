"""The ports where rooms meet. Each has a real in-memory version in contracts/testing/memory.py.

A port says what is promised; how it is kept is the implementation's business.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.events.record import (
    Fetched,
    OutRecord,
    Positions,
    Record,
    RecordPosition,
    TopicPartition,
)
from contracts.filters.nodes import Filter
from contracts.filters.warnings import FilterWarning
from contracts.ports.hit import Hit, VectorQuery
from contracts.score import Vectors
from contracts.space import Space
from contracts.topics import Target
from contracts.wire.as_of import AsOf

RgbImage = NDArray[np.uint8]


class Preprocess(Protocol):
    """Pixels to the pixels that a model takes: resized and cropped, not normalised.

    Runs where pictures are decoded, in another process: it pickles, and imports no torch.
    """

    @property
    def side(self) -> int:
        """Pixels of the shorter side that it needs; larger pictures may be decoded smaller."""
        ...

    def __call__(self, image: RgbImage) -> RgbImage: ...


class Encoder(Protocol):
    """Texts and images to unit vectors of one space.

    Blocking; called from one thread at a time. Any number of inputs; the encoder splits them.
    """

    @property
    def space(self) -> Space: ...

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with before a softmax, as the checkpoint was trained."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """What a picture goes through before it is encoded."""
        ...

    @property
    def truncated(self) -> int:
        """Texts so far that were cut at the number of tokens which the model takes."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Shape (n, dim), float16, rows of length one."""
        ...

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """`images`: uint8, (height, width, 3), as `preprocess` gave them.

        Shape (n, dim), float16, rows of length one.
        """
        ...


class QueryEncoder(Protocol):
    """The same for queries, off the event loop, one at a time, batched and cached behind it."""

    async def query(self, text: str) -> Vectors:
        """Of a text that is asked for, in the templates that are set for queries."""
        ...

    async def text(self, text: str) -> Vectors:
        """Of a text as it stands: a label in its own template, what is to be classified."""
        ...

    async def image(self, data: bytes) -> Vectors:
        """Raises RejectedRecord for a picture that cannot be decoded."""
        ...

    async def logit_scale(self) -> float:
        """The encoder's, once its model is loaded."""
        ...


class ReferenceReader(Protocol):
    """Reads the pictures that references name, within limits, and only where that is allowed."""

    def read(self, ref: str, sha256: str | None) -> AbstractAsyncContextManager[bytes]:
        """The bytes; they count as in memory until they are left. Raises RejectedRecord:
        `reference_unreachable` where a later try may succeed.
        """
        ...


class PictureConverter(Protocol):
    """Converts pictures that browsers do not show to JPEG, in a process that they may crash."""

    async def converted(self, data: bytes) -> bytes:
        """Return the picture as JPEG.

        Raises RejectedRecord for one that cannot be decoded within its limits, and NotReady.
        """
        ...


class Clock(Protocol):
    """Wall-clock time in seconds since the epoch; tests move it by hand."""

    def now(self) -> float: ...


class LogReader(Protocol):
    """Reads assigned partitions in order, committed records only.

    Offsets out of range raise LogChanged: there is no silent jump to either end.
    """

    async def fetch(self, *, records_max: int, timeout_ms: int) -> Fetched: ...

    async def positions(self) -> dict[TopicPartition, int]:
        """Where the next fetch goes on."""
        ...

    async def stable_offsets(self) -> dict[TopicPartition, int]:
        """The last stable offset of each assigned partition, asked of the broker now."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Added:
    """The partitions that a topic has beyond those that it was made with, and what they hold."""

    topic: str
    made: int
    now: int
    records: int

    def __str__(self) -> str:
        return (
            f"topic {self.topic} was made with {self.made} partitions and has {self.now} now: the "
            f"{self.now - self.made} added ones are ignored, {self.records} records lie in them"
        )


class EventLog(Protocol):
    """The event log as producers and index nodes use it."""

    async def publish(self, records: Sequence[OutRecord]) -> list[RecordPosition]:
        """Append, acknowledged by all in-sync replicas; positions in the order given."""
        ...

    async def read(self, position: RecordPosition) -> Record | None:
        """The record at exactly this offset, or None where compaction took it."""
        ...

    async def tail(self, start: Mapping[TopicPartition, int | None]) -> LogReader:
        """A reader standing at `start` (None: the beginning); it reads the partitions named."""
        ...

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The broker's id of each topic; raises TopicMismatch for one that is absent."""
        ...

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the counts that topics were made with; partitions added since hold nothing of
        ours.

        Raises TopicMismatch for a topic that is absent.
        """
        ...

    async def added_partitions(self, topics: Iterable[str]) -> list[Added]:
        """Return the topics among these that have more partitions than they were made with."""
        ...

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """High watermarks: past everything appended, transactions still open included."""
        ...

    async def delete_retention_s(self, topics: Iterable[str]) -> float:
        """For how long at least tombstones stay (delete.retention.ms); infinite where unknown."""
        ...

    async def compaction_lag_s(self, topics: Iterable[str]) -> float:
        """How long every record stays at least (min.compaction.lag.ms); infinite where unknown."""
        ...

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """The group's committed offsets."""
        ...

    async def commit(self, group: str, positions: Positions) -> None:
        """Publish an index node's positions, for dashboards only."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Lease:
    """One period of owning one content partition. Compared by identity: a later period is new.

    `topic_id` is the broker's id of the topic then, for the `source` of what is written, and
    `partitions` the count that the topic was made with, where the owner knows it.
    """

    partition: TopicPartition
    topic_id: str
    partitions: int | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """Records of one leased partition, in source order, and the position after them."""

    lease: Lease
    records: Sequence[Record]
    next_offset: int


class Ownership(Protocol):
    """An encoder's membership in its group: which partitions are its own, and writing for them.

    Keeps invariant 2: the former owner is fenced before the committed offset is read, and outputs
    and offset go into one transaction. One caller for each topic, and one commit at a time for
    each partition.
    """

    async def fetch(
        self,
        topic: str,
        *,
        records_max: int,
        timeout_ms: int,
        without: Collection[TopicPartition] = (),
    ) -> list[Claimed]:
        """Next records of the topic's partitions owned now; empty when there are none in time.

        Those in `without` are left where they stand: this is how backpressure pauses a partition.
        """
        ...

    def holds(self, lease: Lease) -> bool:
        """Whether it goes on: what is under way for an ended one cannot be committed."""
        ...

    async def commit(self, claimed: Claimed, outputs: Sequence[OutRecord]) -> None:
        """Append `outputs` and move the partition's offset to `claimed.next_offset`, or neither.

        Raises Fenced when the lease has ended; the batch is then somebody else's. Raises
        RecordTooLarge for an output that its topic does not take; the batch is fetched again.
        """
        ...

    @property
    def owned(self) -> frozenset[TopicPartition]: ...

    @property
    def is_member(self) -> bool:
        """Return whether the group has given this encoder its share, which may be no partition."""
        ...


class EncoderLog(Protocol):
    """The event log as encoders use it."""

    def own(self, group: str) -> AbstractAsyncContextManager[Ownership]:
        """Join `group`, which shares out the partitions of both content topics."""
        ...

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]: ...

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]: ...


class BlobStore(Protocol):
    """Named immutable blobs: where snapshots live. Names are slash-separated."""

    async def write(self, name: str, data: bytes | memoryview) -> None:
        """Whole or not at all, and durable when it returns."""
        ...

    async def read(self, name: str) -> bytes:
        """Raises KeyError when there is no such blob."""
        ...

    async def upload(self, name: str, path: Path) -> None:
        """The file's bytes become the blob: whole or not at all, and durable on return.

        The file is never changed afterwards, but it may be deleted.
        """
        ...

    async def local(self, name: str, folder: Path) -> Path:
        """A file with the blob's bytes, to be mapped: its own, or a copy made in `folder`.

        Raises KeyError when there is no such blob.
        """
        ...

    async def list(self, prefix: str) -> list[str]: ...

    async def sizes(self, prefix: str) -> Mapping[str, int]:
        """Return the names that `list` does, each with its bytes."""
        ...

    async def delete(self, name: str) -> None:
        """Deleting what is not there is not an error."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits of one query, and the state they were found in; `warnings` are of its filter there.

    Hits may be built while they are iterated: go through them once, and keep none.
    """

    hits: Sequence[Hit]
    as_of: AsOf
    warnings: Sequence[FilterWarning] = ()


class Searcher(Protocol):
    """Answers vector queries from one consistent state.

    `generation` counts the indexes that answered: while it stays, each state follows from the one
    before by the batches that AppliedBatches tells.
    """

    @property
    def generation(self) -> int: ...

    async def search(self, queries: Sequence[VectorQuery]) -> list[Answer]:
        """All answers from the same view, in order. Raises NotReady."""
        ...

    async def warnings(self, target: Target, condition: Filter) -> Sequence[FilterWarning]:
        """Warn of what a filter asks for and no item has now. Raises NotReady."""
        ...

    async def item(self, target: Target, item_id: str) -> Hit | None:
        """The item as indexed now (rank and score 0), its vector included."""
        ...

    def as_of(self) -> AsOf: ...


class IndexAdmin(Protocol):
    """What an operator may ask of a running index node. All raise NotReady."""

    async def snapshot(self) -> dict[str, Any]:
        """Write one now. Raises SnapshotFailed."""
        ...

    async def restore(self, name: str) -> dict[str, Any]:
        """Let the next start begin from this replica's snapshot `name`, and write none until then.

        Raises SnapshotRefused where a start would pass it over, SnapshotFailed.
        """
        ...

    async def rebuild(self, targets: Sequence[Target]) -> list[dict[str, Any]]:
        """Build sealed segments anew: what was built. Raises RebuildFailed."""
        ...

    async def verify(self) -> dict[str, Any]:
        """Recompute the digests from the rows."""
        ...

    def segments(self) -> list[dict[str, Any]]:
        """Sealed segments with their tuning tables."""
        ...


class Progress(Protocol):
    """How far an index has come, in terms of the content records behind it."""

    def highest_source(self, target: Target, partition: int) -> int:
        """Highest content offset whose vector or tombstone was applied; -1: none."""
        ...

    def reason_of(self, target: Target, partition: int, offset: int) -> str | None:
        """Why this content record was dead-lettered, while that is remembered."""
        ...

    def count(self, target: Target) -> int:
        """Live items."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What one applied batch changed: for each target the ids put in and the ids taken out.

    `vectors` holds a row per id of `upserted`, `hit` gives the n-th as a hit, with its vector. An
    id is in one of the two, by its last record. `appended_ms` is the append time of the oldest
    content record behind it, where that is known.
    """

    target: Target
    upserted: Sequence[str]
    vectors: Vectors
    removed: Sequence[str]
    hit: Callable[[int], Hit]
    appended_ms: int | None = None


class AppliedBatches(Protocol):
    """Tells listeners about every applied batch, in the turn of the event loop in which its view
    becomes the current one: who reads the Searcher on the loop has been told of all it sees."""

    def listen(self, listener: Callable[[Sequence[Applied]], None]) -> Callable[[], None]:
        """Call `listener` on the event loop after each batch; returns what ends it."""
        ...


class Matcher(Protocol):
    """Nominates (query, vector) pairs whose score may reach the query's floor."""

    def nominate(
        self, queries: NDArray[np.float32], floors: NDArray[np.float64], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of queries (q, d) and rows of vectors (n, d) whose score may be >= floor (q,).

        As two arrays of numbers, of equal length.
        """
        ...


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one group is behind in one partition.

    `records` and `seconds` tell what is still to come up to `end`, the last stable offset. An open
    transaction holds `unstable` records back between there and the high watermark, for
    `unstable_seconds` so far. `members` counts the processes that do the group's work; None:
    not known.
    """

    role: str
    group: str
    topic: str
    partition: int
    position: int
    end: int
    records: int
    seconds: float
    space: str
    unstable: int = 0
    unstable_seconds: float = 0.0
    members: int | None = None

    @property
    def high_watermark(self) -> int:
        return self.end + self.unstable

    @property
    def waiting(self) -> bool:
        """Return whether there is anything that the group has not processed."""
        return self.records > 0 or self.unstable > 0

    @property
    def gone(self) -> bool:
        """Return whether this is an index node that does not run, so that nobody waits for it."""
        return self.role == "index" and self.members == 0

    @property
    def unattended(self) -> bool:
        """Return whether no encoder runs. The group is not `gone`, since published items wait."""
        return self.role == "encode" and self.members == 0


class LagSource(Protocol):
    """Lag of encoders and index nodes against the last stable offset.

    Of the space that the process works on, and of those kept or made beside it.
    """

    async def lag(self) -> list[Lag]:
        """Asked of the broker now. Raises BrokerUnavailable."""
        ...

    def behind_s(self, lags: Sequence[Lag]) -> float:
        """Return the age of the oldest content record behind `lags`, which `lag` answered, or 0.

        Groups that are gone do not count.
        """
        ...
