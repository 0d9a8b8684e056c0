"""Differences between standing lists: what a `delta` holds, and how a client applies it.

Server and client share this module, so that "applying the difference of two lists to the first one
gives the second" is tested once. A list is in rank order and holds an id at most once. The server
compares its own objects and makes a wire hit only of what it sends (`list_changes`); clients
compare wire hits (`wire_list_changes`).
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


class ListReader(Protocol[_Read]):
    """A description of list entries: how they are identified, compared and sent."""

    def id(self, one: _Read, /) -> str: ...

    def same(self, one: _Read, other: _Read, /) -> bool:
        """Return whether two entries are equal in all but their rank."""
        ...

    def wire(self, one: _Read, rank: int, /) -> Any:
        """Return an entry as a wire hit, or as its JSON."""
        ...


def list_changes(
    old: Sequence[_One], new: Sequence[_One], reader: ListReader[_One]
) -> list[WireChange]:
    """Return the changes that turn `old` into `new`; empty when they are equal.

    Items that keep their relative order do not move, even when their ranks shift: the fewest
    possible items move (the complement of a longest increasing subsequence).
    """
    # Equal entries at either end need no change. Usually that is nearly the whole list.
    first, most = 0, min(len(old), len(new))
    while first < most and old[first] == new[first]:
        first += 1
    last, most = 0, most - first
    while last < most and old[-1 - last] == new[-1 - last]:
        last += 1
    old, new = old[first : len(old) - last], new[first : len(new) - last]
    id_of = reader.id
    before = {id_of(one): index for index, one in enumerate(old)}
    # Indices in the old list, in the order of the new one; -1: the entry is new.
    indices = [before.pop(id_of(one), -1) for one in new]
    result: list[WireChange] = [{"change": "leave", "id": item_id} for item_id in before]
    moved = _moved([index for index in indices if index >= 0])
    for rank, (one, index) in enumerate(zip(new, indices, strict=True), start=first + 1):
        if index < 0:
            change = "enter"
        elif index in moved:
            change = "move"
        elif one == old[index] or reader.same(one, old[index]):
            continue
        else:
            change = "update"
        hit = reader.wire(one, rank)
        result.append({"change": change, "id": id_of(one), "rank": rank, "hit": hit})
    return result


def wire_list_changes(old: Sequence[WireHit], new: Sequence[WireHit]) -> list[WireChange]:
    """Return the changes that turn one list of wire hits into another."""
    return list_changes(old, new, _WIRE_LISTS)


class _WireListReader:
    """The ListReader of wire hits."""

    def id(self, hit: WireHit, /) -> str:
        return str(hit["id"])

    def same(self, hit: WireHit, other: WireHit, /) -> bool:
        return hit == {**other, "rank": hit["rank"]}

    def wire(self, hit: WireHit, rank: int, /) -> WireHit:
        return hit


_WIRE_LISTS = _WireListReader()


def apply_changes(hits: Sequence[WireHit], changes: Sequence[WireChange]) -> list[WireHit]:
    """Return the list after `changes`, which are applied as one step in this order.

    Every id that leaves or moves is removed; entries that enter or move are inserted by ascending
    rank; then the hits of updates are replaced. Other orders give wrong lists.
    """
    gone = {c["id"] for c in changes if c["change"] in ("leave", "move")}
    result = [hit for hit in hits if hit["id"] not in gone]
    arriving = [c for c in changes if c["change"] in ("enter", "move")]
    for change in sorted(arriving, key=lambda c: c["rank"]):
        result.insert(change["rank"] - 1, change["hit"])
    updated = {c["id"]: c["hit"] for c in changes if c["change"] == "update"}
    result = [updated.get(hit["id"], hit) for hit in result]
    return [{**hit, "rank": rank} for rank, hit in enumerate(result, start=1)]


def _moved(kept: Sequence[int]) -> set[int]:
    """Return the old indices of the entries that move, given those of all that stay in the list."""
    if all(map(int.__lt__, kept, kept[1:])):
        return set()
    return set(kept) - {kept[i] for i in _longest_increasing(kept)}


def _longest_increasing(numbers: Sequence[int]) -> list[int]:
    """Return the indices of a longest strictly increasing subsequence.

    This is patience sorting, in O(n log n).
    """
    tails: list[int] = []
    ends: list[int] = []
    previous: list[int] = []
    for index, number in enumerate(numbers):
        length = bisect_left(tails, number)
        previous.append(ends[length - 1] if length else -1)
        if length == len(tails):
            tails.append(number)
            ends.append(index)
        else:
            tails[length] = number
            ends[length] = index
    chain: list[int] = []
    index = ends[-1] if ends else -1
    while index >= 0:
        chain.append(index)
        index = previous[index]
    return chain[::-1]
