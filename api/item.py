"""An item that standing lists hold: what is told of it, one for all of them. No I/O."""

from collections.abc import Collection, Sequence

import orjson

from api.hit_json import vector_members
from contracts.hits import Hit
from contracts.messages import wire_hit
from contracts.score import Vectors

# An item in a list: its score, and the item.
Place = tuple[float, "Item"]


class Item:
    """All of a hit that is the same in every list, as it is sent."""

    __slots__ = ("_told", "id", "offset", "partition", "vector")

    def __init__(self, hit: Hit) -> None:
        self.id = hit.id
        # Of its source, which tells versions apart.
        self.partition, self.offset = hit.source.partition, hit.source.offset
        wire = wire_hit(hit, include=())
        del wire["rank"], wire["score"]
        # Without its brace. A copy: what orjson returns keeps a whole page of memory.
        self._told = bytes(memoryview(orjson.dumps(wire))[1:])
        # Only where a list wants it: it takes more than all the rest.
        self.vector: Vectors | None = None

    def same(self, other: "Item") -> bool:
        return self is other or self._told == other._told

    def wire(self, rank: int, score: float, include: Collection[str] = ()) -> orjson.Fragment:
        """contracts.messages.wire_hit of it in a list, as JSON."""
        members = b'{"rank":%d,"score":%s,' % (rank, orjson.dumps(score))
        if include and self.vector is not None:
            members += vector_members(self.vector, include) + b","
        return orjson.Fragment(members + self._told)


class Places:
    """How `difference` reads places (contracts.deltas.Reader)."""

    def __init__(self, include: Collection[str]) -> None:
        self._include = include

    def id(self, place: Place) -> str:
        return place[1].id

    def same(self, one: Place, other: Place) -> bool:
        return one[0] == other[0] and one[1].same(other[1])

    def wire(self, place: Place, rank: int) -> orjson.Fragment:
        score, item = place
        return item.wire(rank, score, self._include)


def places_of(hits: Sequence[Hit]) -> list[Place]:
    """Of a search's answer."""
    found: list[Place] = []
    for hit in hits:
        item = Item(hit)
        item.vector = hit.vector
        found.append((hit.score, item))
    return found
