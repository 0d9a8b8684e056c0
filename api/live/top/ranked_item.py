"""Items that live lists hold, each with its JSON, which all lists share. No I/O."""

from collections.abc import Collection

import orjson

from api.http.answer_memory import hits_bytes
from api.http.hit_json import vector_members
from contracts.ports.hit import Hit
from contracts.score import Vectors
from contracts.wire.message_json import wire_hit

# An item in a list, which is in rank order: its score, and the item.
RankedItem = tuple[float, "ListItem"]


class ListItem:
    """The part of a hit that is the same in every list, as JSON."""

    __slots__ = ("_json", "id", "offset", "partition", "vector")

    def __init__(self, hit: "Hit | ListItem") -> None:
        self.id: str = hit.id
        # Set only if a list shows vectors: it takes more memory than all the rest.
        self.vector: Vectors | None = None
        if isinstance(hit, ListItem):
            self._copy(hit)
            return
        # The position of its source record identifies the version.
        self.partition: int = hit.source.partition
        self.offset: int = hit.source.offset
        wire = wire_hit(hit, include=())
        del wire["rank"], wire["score"]
        # The JSON without the first brace, copied: bytes that orjson returns keep a page of memory.
        self._json: bytes = bytes(memoryview(orjson.dumps(wire))[1:])

    def _copy(self, item: "ListItem") -> None:
        self.partition, self.offset = item.partition, item.offset
        self._json = item._json

    def is_sent_alike(self, other: "ListItem") -> bool:
        """Return whether both have the same JSON."""
        return self is other or self._json == other._json

    @property
    def size(self) -> int:
        """The length of its JSON in bytes."""
        return len(self._json)

    def wire(self, rank: int, score: float, include: Collection[str] = ()) -> orjson.Fragment:
        """Return its wire hit (contracts.wire.message_json.wire_hit) in a list, as JSON."""
        members = b'{"rank":%d,"score":%s,' % (rank, orjson.dumps(score))
        if include and self.vector is not None:
            members += vector_members(self.vector, include) + b","
        return orjson.Fragment(members + self._json)


class LazyHitJson:
    """An item in a list, whose JSON is written together with its message.

    To write the vectors of a thousand items at once would hold up the event loop.
    """

    __slots__ = ("_include", "_item", "_rank", "_score")

    def __init__(self, item: ListItem, rank: int, score: float, include: Collection[str]) -> None:
        self._item = item
        self._rank = rank
        self._score = score
        self._include = include

    @property
    def size(self) -> int:
        """The approximate length of its JSON in bytes."""
        if not self._include or self._item.vector is None:
            return self._item.size
        return self._item.size + hits_bytes(1, self._include, len(self._item.vector))

    def fragment(self) -> orjson.Fragment:
        """Return the JSON, for orjson to write into a message."""
        return self._item.wire(self._rank, self._score, self._include)


class RankedItemReader:
    """The reader of ranked items for `list_changes` (contracts.wire.delta.ListReader)."""

    def __init__(self, include: Collection[str]) -> None:
        self._include = include

    def id(self, ranked: RankedItem) -> str:
        """Return the item's id."""
        return ranked[1].id

    def same(self, one: RankedItem, other: RankedItem) -> bool:
        """Return whether score and JSON are equal, so that no change is sent."""
        return one[0] == other[0] and one[1].is_sent_alike(other[1])

    def wire(self, ranked: RankedItem, rank: int) -> LazyHitJson:
        """Return the item as it is sent at this rank."""
        score, item = ranked
        return LazyHitJson(item, rank, score, self._include)


def ranked_item(hit: Hit) -> RankedItem:
    """Return the ranked item of a hit that a search returned."""
    item = ListItem(hit)
    item.vector = hit.vector
    return hit.score, item
