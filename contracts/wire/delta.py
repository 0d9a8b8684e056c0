"""Differences of standing lists: what a `delta` holds, and how a client applies it.

Both sides share this file, so that "apply(old, difference(old, new)) == new" is tested once. A
list is in rank order; an id stands in it at most once. The server compares what it holds of an item
(`changes`) and makes a wire hit only of what it tells; clients compare wire hits (`difference`).
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

# A hit as it is sent: HitMessage.
WireHit = dict[str, Any]
# One difference of two lists, as it is sent: Change.
WireChange = dict[str, Any]

_One = TypeVar("_One")
_Read = TypeVar("_Read", contravariant=True)


class Reader(Protocol[_Read]):
    """What a list holds, and what is told of it."""

    def id(self, one: _Read, /) -> str: ...

    def same(self, one: _Read, other: _Read, /) -> bool:
        """Whether both are equal in all but their rank."""
        ...

    def wire(self, one: _Read, rank: int, /) -> Any:
        """A wire hit, or its JSON."""
        ...


def changes(old: Sequence[_One], new: Sequence[_One], reader: Reader[_One]) -> list[WireChange]:
    """The changes that turn `old` into `new`; empty when they are equal.

    Items that stay in relative order are not moves, even when their ranks shift: the fewest
    possible items move (the complement of a longest increasing subsequence).
    """
    # What is equal at either end stays as it is: as a rule nearly everything.
    first, most = 0, min(len(old), len(new))
    while first < most and old[first] == new[first]:
        first += 1
    last, most = 0, most - first
    while last < most and old[-1 - last] == new[-1 - last]:
        last += 1
    old, new = old[first : len(old) - last], new[first : len(new) - last]
    id_of = reader.id
    before = {id_of(one): place for place, one in enumerate(old)}
    # Places in the old list, in the order of the new one; -1: it was not in it.
    places = [before.pop(id_of(one), -1) for one in new]
    found: list[WireChange] = [{"change": "leave", "id": item_id} for item_id in before]
    kept = [place for place in places if place >= 0]
    if all(map(int.__lt__, kept, kept[1:])):
        moved: set[int] = set()
    else:
        moved = set(kept) - {kept[i] for i in _longest_increasing(kept)}
    for rank, (one, place) in enumerate(zip(new, places, strict=True), start=first + 1):
        if place < 0:
            kind = "enter"
        elif place in moved:
            kind = "move"
        elif one == old[place] or reader.same(one, old[place]):
            continue
        else:
            kind = "update"
        told = reader.wire(one, rank)
        found.append({"change": kind, "id": id_of(one), "rank": rank, "hit": told})
    return found


def difference(old: Sequence[WireHit], new: Sequence[WireHit]) -> list[WireChange]:
    """The same of wire hits."""
    return changes(old, new, _WIRED)


class _Wired:
    """How wire hits are read."""

    def id(self, hit: WireHit, /) -> str:
        return str(hit["id"])

    def same(self, hit: WireHit, other: WireHit, /) -> bool:
        return hit == {**other, "rank": hit["rank"]}

    def wire(self, hit: WireHit, rank: int, /) -> WireHit:
        return hit


_WIRED = _Wired()


def apply(hits: Sequence[WireHit], changes: Sequence[WireChange]) -> list[WireHit]:
    """The list after `changes`: remove leaves and moves, insert by ascending rank, then update."""
    gone = {c["id"] for c in changes if c["change"] in ("leave", "move")}
    result = [hit for hit in hits if hit["id"] not in gone]
    arriving = [c for c in changes if c["change"] in ("enter", "move")]
    for change in sorted(arriving, key=lambda c: c["rank"]):
        result.insert(change["rank"] - 1, change["hit"])
    updated = {c["id"]: c["hit"] for c in changes if c["change"] == "update"}
    result = [updated.get(hit["id"], hit) for hit in result]
    return [{**hit, "rank": rank} for rank, hit in enumerate(result, start=1)]


def _longest_increasing(places: Sequence[int]) -> list[int]:
    """Indices of a longest strictly increasing subsequence (patience sorting, O(n log n))."""
    tails: list[int] = []
    ends: list[int] = []
    previous: list[int] = []
    for index, place in enumerate(places):
        length = bisect_left(tails, place)
        previous.append(ends[length - 1] if length else -1)
        if length == len(tails):
            tails.append(place)
            ends.append(index)
        else:
            tails[length] = place
            ends[length] = index
    chain: list[int] = []
    index = ends[-1] if ends else -1
    while index >= 0:
        chain.append(index)
        index = previous[index]
    return chain[::-1]
