"""An item that standing lists hold: packed, one for all of them; its place in one. No I/O."""

from collections.abc import Sequence
from typing import Any

import orjson

from contracts.hits import Hit
from contracts.messages import WireHit, wire_hit
from contracts.records import RecordPosition
from contracts.score import Vectors


class Item:
    """All of a hit that is the same in every list, in a third of a hit's room."""

    __slots__ = ("_packed", "id", "offset", "partition", "vector")

    def __init__(self, hit: Hit) -> None:
        self.id = hit.id
        # Of its source, which tells versions apart.
        self.partition, self.offset = hit.source.partition, hit.source.offset
        packed = orjson.dumps(
            [hit.target, *hit.source, hit.item, hit.text, hit.metadata], default=dict
        )
        # A copy: what orjson returns keeps a whole page of memory.
        self._packed = bytes(memoryview(packed))
        # Only where a list wants it: it takes more than all the rest.
        self.vector: Vectors | None = None

    def same(self, other: "Item") -> bool:
        return self is other or (self.id == other.id and self._packed == other._packed)

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


class Place:
    """An item in a list, as it is told: contracts.deltas.Listed."""

    __slots__ = ("_with_vector", "id", "item", "score")

    def __init__(self, score: float, item: Item, with_vector: bool) -> None:
        self.id = item.id
        self.score = score
        self.item = item
        self._with_vector = with_vector

    def same(self, other: "Place") -> bool:
        return self.score == other.score and self.item.same(other.item)

    def wire(self, rank: int) -> WireHit:
        return wire_hit(self.item.hit(rank, self.score, with_vector=self._with_vector))


def places_of(hits: Sequence[Hit], with_vector: bool) -> list[Place]:
    """Of a search's answer."""
    found = []
    for hit in hits:
        item = Item(hit)
        item.vector = hit.vector
        found.append(Place(hit.score, item, with_vector))
    return found
