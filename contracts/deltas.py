"""Differences of standing lists: what a `delta` holds, and how a client applies it.

Both sides share this file, so that "apply(old, difference(old, new)) == new" is tested once. A
list is a sequence of wire hits in rank order; an id stands in it at most once.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from contracts.messages import WireHit

WireChange = dict[str, Any]


def difference(old: Sequence[WireHit], new: Sequence[WireHit]) -> list[WireChange]:
    """The changes that turn `old` into `new`; empty when they are equal.

    Items that stay in relative order are not moves, even when their ranks shift: the fewest
    possible items move (the complement of a longest increasing subsequence).
    """
    before = {hit["id"]: place for place, hit in enumerate(old)}
    after = {hit["id"] for hit in new}
    changes: list[WireChange] = [
        {"change": "leave", "id": hit["id"]} for hit in old if hit["id"] not in after
    ]
    kept = [hit for hit in new if hit["id"] in before]
    stay = {kept[i]["id"] for i in _longest_increasing([before[hit["id"]] for hit in kept])}
    for hit in new:
        place = before.get(hit["id"])
        if place is None:
            changes.append({"change": "enter", "id": hit["id"], "rank": hit["rank"], "hit": hit})
        elif hit["id"] not in stay:
            changes.append({"change": "move", "id": hit["id"], "rank": hit["rank"], "hit": hit})
        elif _members(hit) != _members(old[place]):
            changes.append({"change": "update", "id": hit["id"], "rank": hit["rank"], "hit": hit})
    return changes


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


def _members(hit: WireHit) -> WireHit:
    return {name: value for name, value in hit.items() if name != "rank"}


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
