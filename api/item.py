"""An item that standing lists hold: packed, one for all of them. No I/O."""

from typing import Any

import orjson

from contracts.hits import Hit
from contracts.records import RecordPosition
from contracts.score import Vectors


class Item:
    """All of a hit that is the same in every list, in a third of a hit's room."""

    __slots__ = ("_packed", "id", "vector")

    def __init__(self, hit: Hit) -> None:
        self.id = hit.id
        packed = orjson.dumps(
            [hit.target, *hit.source, hit.item, hit.text, hit.metadata], default=dict
        )
        # A copy: what orjson returns keeps a whole page of memory.
        self._packed = bytes(memoryview(packed))
        # Only where a list wants it: it takes more than all the rest.
        self.vector: Vectors | None = None

    def hit(self, rank: int, score: float, *, with_vector: bool = False) -> Hit:
        target, topic, partition, offset, item, text, metadata = self._unpacked()
        return Hit(
            target,
            self.id,
            rank,
            score,
            RecordPosition(topic, partition, offset),
            item,
            text,
            metadata,
            self.vector if with_vector else None,
        )

    def _unpacked(self) -> Any:
        return orjson.loads(self._packed)
