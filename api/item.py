"""An item that standing lists hold: what is told of it, one for all of them. No I/O."""

from collections.abc import Collection

import orjson

from api.allowance import hits_bytes
from api.hit_json import vector_members
from contracts.hits import Hit
from contracts.score import Vectors
from contracts.wire import wire_hit

# An item in a list: its score, and the item.
Place = tuple[float, "Item"]


class Item:
    """All of a hit that is the same in every list, as it is sent."""

    __slots__ = ("_told", "id", "offset", "partition", "vector")

    def __init__(self, hit: "Hit | Item") -> None:
        self.id: str = hit.id
        # Only where a list wants it: it takes more than all the rest.
        self.vector: Vectors | None = None
        if isinstance(hit, Item):
            self._copy(hit)
            return
        # Of its source, which tells versions apart.
        self.partition: int = hit.source.partition
        self.offset: int = hit.source.offset
        wire = wire_hit(hit, include=())
        del wire["rank"], wire["score"]
        # Without its brace. A copy: what orjson returns keeps a whole page of memory.
        self._told: bytes = bytes(memoryview(orjson.dumps(wire))[1:])

    def _copy(self, item: "Item") -> None:
        self.partition, self.offset = item.partition, item.offset
        self._told = item._told

    def same(self, other: "Item") -> bool:
        return self is other or self._told == other._told

    @property
    def size(self) -> int:
        """Of what is told of it in every list, in bytes."""
        return len(self._told)

    def wire(self, rank: int, score: float, include: Collection[str] = ()) -> orjson.Fragment:
        """contracts.wire.wire_hit of it in a list, as JSON."""
        members = b'{"rank":%d,"score":%s,' % (rank, orjson.dumps(score))
        if include and self.vector is not None:
            members += vector_members(self.vector, include) + b","
        return orjson.Fragment(members + self._told)


class Told:
    """An item in a list, to be written when the message is: all of its vector's digits at once, for
    a thousand items, would hold up everybody."""

    __slots__ = ("_include", "_item", "_rank", "_score")

    def __init__(self, item: Item, rank: int, score: float, include: Collection[str]) -> None:
        self._item = item
        self._rank = rank
        self._score = score
        self._include = include

    @property
    def size(self) -> int:
        """About so many bytes."""
        if not self._include or self._item.vector is None:
            return self._item.size
        return self._item.size + hits_bytes(1, self._include, len(self._item.vector))

    def fragment(self) -> orjson.Fragment:
        return self._item.wire(self._rank, self._score, self._include)


class Places:
    """How `difference` reads places (contracts.deltas.Reader)."""

    def __init__(self, include: Collection[str]) -> None:
        self._include = include

    def id(self, place: Place) -> str:
        return place[1].id

    def same(self, one: Place, other: Place) -> bool:
        return one[0] == other[0] and one[1].same(other[1])

    def wire(self, place: Place, rank: int) -> Told:
        score, item = place
        return Told(item, rank, score, self._include)


def place_of(hit: Hit) -> Place:
    """Where a search found it."""
    item = Item(hit)
    item.vector = hit.vector
    return hit.score, item
