"""The records that open transactions hold back, from last stable offset to high watermark.

A reader of committed records may read neither these records nor what others wrote behind them until
the transaction ends. A producer that died leaves it open for its transaction.timeout.ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from contracts.events.record import TopicPartition
from streams.kafka.connection import KafkaConnection
from streams.lag.oldest_record import OldestRecord, OldestRecordReader


@dataclass(frozen=True, slots=True)
class Unstable:
    """The number of records from the last stable offset on, and the oldest one; None if unknown."""

    stable: int
    records: int
    oldest: OldestRecord | None


class UnstableRecordCounter:
    """The unstable records of fixed partitions, as they were at the last `count`.

    The oldest record is read at the first count only, and where the same one was there at the count
    before: an encoder's transaction lasts 25 ms, and would cost a fetch each time.
    """

    def __init__(self, reader: OldestRecordReader) -> None:
        self._reader = reader
        self._found: Mapping[TopicPartition, Unstable] | None = None

    @classmethod
    async def open(cls, connection: KafkaConnection, partitions: Sequence[TopicPartition]) -> Self:
        return cls(
            await OldestRecordReader.open(connection, partitions, isolation="read_uncommitted")
        )

    async def close(self) -> None:
        await self._reader.close()

    async def high_watermarks(self) -> dict[TopicPartition, int]:
        """Return the high watermarks.

        Ask for them before the last stable offsets, or records published in between look unstable.
        """
        return await self._reader.ends()

    async def count(
        self, high: Mapping[TopicPartition, int], stable: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Unstable]:
        """Return only the partitions that have unstable records."""
        before = self._found
        held = {tp: (stable[tp], end) for tp, end in high.items() if end > stable[tp]}
        oldest: dict[TopicPartition, OldestRecord | None] = {}
        spans = {}
        for tp, (start, end) in held.items():
            known = None if before is None else before.get(tp)
            stands = known is not None and known.stable == start
            if known is not None and stands and known.oldest is not None:
                oldest[tp] = known.oldest
            elif stands or before is None:
                spans[tp] = (start, end)
        if spans:
            oldest |= await self._reader.read(spans)
        self._found = {
            tp: Unstable(start, end - start, oldest.get(tp)) for tp, (start, end) in held.items()
        }
        return self._found
