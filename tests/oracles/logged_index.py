"""An index by brute force that applies what stands in an embeddings log, as the maintainer does.

`write` appends to the log alone; `apply` brings the index to its end. Between the two the log is
ahead of the index, as it always is for a moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.events.embedding_record import embedding_record, encode_embedding
from contracts.events.record import OutRecord, Record, Source
from contracts.score import Vectors
from contracts.testing.encoder import HashEncoder
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Target
from tests.kits.api_kit import MURMUR2, NAMES, PARTITIONS, BruteIndex

SPACE = HashEncoder().space

Change = tuple[Target, str, Vectors | None, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Version:
    """One record of a log that put an item in, or took it out (vector None)."""

    epoch: str
    target: Target
    id: str
    partition: int
    offset: int
    vector: Vectors | None
    text: str | None = None
    metadata: Mapping[str, Any] | None = None


class LoggedIndex(BruteIndex):
    """Give it the kit's log before anything is written."""

    log: MemoryEventLog

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[Version] = []
        self._written: list[Change] = []

    def write(self, changes: Sequence[Change]) -> None:
        for target, item_id, vector, rest in changes:
            number = MURMUR2(item_id.encode(), PARTITIONS)
            topic = NAMES.embeddings(target)
            offset = len(self.log.records[(topic, number)])  # type: ignore[index]
            content = Record(NAMES.content(target), number, offset, 1, item_id.encode(), None)
            value = None if vector is None else encode_embedding(SPACE, vector, **rest)
            self._append(embedding_record(topic, content, Source("id", number, offset), value))
            self.versions.append(
                Version(
                    self.epoch,
                    target,
                    item_id,
                    number,
                    offset,
                    vector,
                    rest.get("text"),
                    rest.get("metadata") or {},
                )
            )
        self._written += changes

    def apply(self) -> None:
        """Apply what was written, as one batch."""
        changes, self._written = self._written, []
        if changes:
            super().batch(changes)

    def batch(self, changes: Sequence[Change], *, at: int | None = None) -> None:
        self.write(changes)
        self.apply()

    def move(self, target: Target, partition: int, steps: int = 1) -> None:
        """Advance past a transaction marker; a record without content represents it here."""
        for _ in range(steps):
            topic = NAMES.embeddings(target)
            self._append(OutRecord(topic, b"\0marker", None, [], partition))
        super().move(target, partition, steps)

    def restart(self, epoch: str) -> None:
        """Start again on a log that was created again, with nothing in it."""
        for target in TARGETS:
            for number in range(PARTITIONS):
                self.log.records[(NAMES.embeddings(target), number)].clear()  # type: ignore[index]
        self._written = []
        super().restart(epoch)

    def _append(self, record: OutRecord) -> None:
        self.log._append(record)
