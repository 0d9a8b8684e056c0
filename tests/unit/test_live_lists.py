"""A standing list is the best of what matches, or says that it no longer knows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import lists
from api.lists import StandingList
from contracts.hits import Hit
from contracts.records import RecordPosition

# Few scores, so that ids decide.
SCORES = st.sampled_from([0.1, 0.2, 0.3, 0.4])
IDS = st.sampled_from("abcdefghijkl")
PUT = st.tuples(st.just("put"), IDS, SCORES)
REMOVE = st.tuples(st.just("remove"), IDS, st.none())
FILL = st.tuples(st.just("fill"), st.none(), st.none())


def hit(item_id: str, score: float) -> Hit:
    return Hit("images", item_id, 0, score, RecordPosition("t", 0, 0))


def best(items: dict[str, float], count: int) -> list[tuple[str, float]]:
    ranked = sorted(items.items(), key=lambda item: (-item[1], item[0]))
    return ranked[:count]


def pairs(hits: list[Hit]) -> list[tuple[str, float]]:
    assert [one.rank for one in hits] == list(range(1, len(hits) + 1))
    return [(one.id, one.score) for one in hits]


def filled(found: StandingList, items: dict[str, float]) -> None:
    found.fill([hit(*pair) for pair in best(items, found.wanted)])


@settings(deadline=None, max_examples=500)
@given(st.integers(1, 4), st.lists(PUT | PUT | REMOVE | FILL, max_size=60))
def test_it_is_the_best_of_all(k: int, steps: list[tuple[str, str, float]]) -> None:
    """Against a dictionary; it is searched when it is short, and now and then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "_SPARE", 1)
        patch.setattr(lists, "_SPARE_PER_K", 0)
        found, items = StandingList(k), dict[str, float]()
        filled(found, items)
        for what, item_id, score in steps:
            before = pairs(found.top())
            changed = False
            if what != "fill":
                items.pop(item_id, None)
                changed = found.remove(item_id)
            if what == "put":
                items[item_id] = score
                # What lies below the floor need not be told to it.
                if score >= found.floor:
                    changed = found.put(hit(item_id, score)) or changed
                if found.is_long:
                    kept = set(found.ids())
                    assert set(found.cut()) == kept - set(found.ids())
            if what == "fill" or found.is_short:
                filled(found, items)
                assert not found.is_short
                changed = True
            assert pairs(found.top()) == best(items, k)
            assert changed or before == best(items, k)
            assert set(found.ids()) == {one for one in "abcdefghijkl" if one in found}
            assert len(found.ids()) <= 2 * found.wanted + 1


def test_it_loses_sight_only_behind_its_bound() -> None:
    found = StandingList(2)
    assert found.wanted == 12
    filled(found, {f"i{n:02}": n / 20 for n in range(12)})
    assert found.floor == 0.0
    assert not found.put(hit("low", -0.1))
    for n in range(11, 1, -1):
        assert not found.is_short
        assert found.remove(f"i{n:02}")
    assert [one.id for one in found.top()] == ["i01", "i00"]
    assert found.remove("i01")
    assert found.is_short
    filled(found, {"a": 0.5})
    assert (found.is_short, found.floor) == (False, -np.inf)
    assert found.put(hit("low", -0.9))
