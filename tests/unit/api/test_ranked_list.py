"""A standing list is the best of what matches, or says that it no longer knows."""

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from api.live.top.ranked_list import StandingList

# Few scores, so that ids decide.
SCORES = st.sampled_from([0.1, 0.2, 0.3, 0.4])
IDS = st.sampled_from("abcdefghijkl")
PUT = st.tuples(st.just("put"), IDS, SCORES)
REMOVE = st.tuples(st.just("remove"), IDS, st.none())
FILL = st.tuples(st.just("fill"), st.none(), st.none())


class Named(NamedTuple):
    id: str


def best(items: dict[str, float], count: int) -> list[tuple[str, float]]:
    ranked = sorted(items.items(), key=lambda item: (-item[1], item[0]))
    return ranked[:count]


def pairs(found: StandingList[Named]) -> list[tuple[str, float]]:
    return [(item.id, score) for score, item in found.top()]


def ids(found: StandingList[Named]) -> list[str]:
    return [item.id for item in found.items()]


def filled(found: StandingList[Named], items: dict[str, float]) -> None:
    pairs = best(items, found.wanted)
    found.replace_all([score for _, score in pairs], [Named(item_id) for item_id, _ in pairs])


def offered(found: StandingList[Named], item_id: str, score: float) -> bool:
    return found.admits(score, item_id) and found.put(score, Named(item_id))


@settings(deadline=None, max_examples=500)
@given(st.integers(1, 4), st.lists(PUT | PUT | REMOVE | FILL, max_size=60))
def test_it_is_the_best_of_all(k: int, steps: list[tuple[str, str, float]]) -> None:
    """The list is the best of a dictionary; it is searched when it is short, and at times."""
    found, items = StandingList[Named](k, k + 1), dict[str, float]()
    filled(found, items)
    for what, item_id, score in steps:
        before = pairs(found)
        changed = False
        if what != "fill":
            items.pop(item_id, None)
            changed = item_id in ids(found) and found.remove(item_id)
        if what == "put":
            items[item_id] = score
            # An item below the floor need not be offered.
            if score >= found.floor:
                changed = offered(found, item_id, score) or changed
            if found.is_long:
                kept = found.items()
                gone = found.trim()
                assert found.items() + gone == kept
        if what == "fill" or found.is_short:
            filled(found, items)
            assert not found.is_short
            changed = True
        assert pairs(found) == best(items, k)
        assert changed or before == best(items, k)
        assert len(found) <= 1.5 * found.wanted + 1


def test_it_loses_sight_only_behind_its_bound() -> None:
    found = StandingList[Named](2)
    assert found.wanted == 12
    filled(found, {f"i{n:02}": n / 20 for n in range(12)})
    assert found.floor == 0.0
    assert not found.admits(-0.1, "low")
    for n in range(11, 1, -1):
        assert not found.is_short
        assert found.remove(f"i{n:02}")
    assert pairs(found) == [("i01", 0.05), ("i00", 0.0)]
    assert found.remove("i01")
    assert found.is_short
    filled(found, {"a": 0.5})
    assert (found.is_short, found.floor) == (False, -np.inf)
    assert offered(found, "low", -0.9)


def test_below_the_least_score_nothing_is_of_use() -> None:
    found = StandingList[Named](2, min_score=0.5)
    assert found.floor == 0.5
    filled(found, {f"i{n:02}": 0.6 + n / 20 for n in range(12)})
    assert found.floor == 0.6


def test_the_same_list_of_other_objects() -> None:
    found = StandingList[Named](1, 2)
    filled(found, {"a": 0.5, "b": 0.4})
    other = found.map_items(lambda item: Named(item.id.upper()))
    assert (pairs(other), other.floor) == ([("A", 0.5)], 0.4)
    other.clear()
    assert (len(found), len(other), other.floor) == (2, 0, -np.inf)
