"""An item is kept once for all lists that hold it, and no longer than one does."""

from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from api.live.top.ranked_item import ListItem
from api.live.top.shared_items import SharedItems
from api.live.top.standing_query import StandingQuery
from api.queries.prepare import PreparedQuery
from contracts.events.record import RecordPosition
from contracts.ports.hit import Hit
from contracts.score import unit
from contracts.wire.client_messages import Included
from contracts.wire.message_json import wire_hit

VECTOR = unit([0.6, 0.8])


def found(item_id: str = "a", score: float = 0.5) -> Hit:
    return Hit(
        "captions",
        item_id,
        3,
        score,
        RecordPosition("topic", 2, 7_000_000_000),
        "group",
        'Grüße ✓ \\ "',
        {"n": 1.5, "many": ["x", None], "deep": {"y": True}},
        VECTOR,
    )


def standing(*include: Included) -> StandingQuery:
    return StandingQuery(PreparedQuery("captions", [], include=include))


def sent(message: Any) -> Any:
    return orjson.loads(orjson.dumps(message))


def test_an_item_is_told_as_the_hit_wherever_it_stands() -> None:
    item = ListItem(found())
    assert sent(item.wire(3, 0.5)) == wire_hit(replace(found(), vector=None))
    item.vector = VECTOR
    assert sent(item.wire(3, 0.5, ["vector"])) == wire_hit(found())
    assert "vector" not in sent(item.wire(3, 0.5))
    bare = Hit("images", "b/ü", 12, -0.0, RecordPosition("t", 0, 0))
    assert sent(ListItem(bare).wire(12, -0.0)) == wire_hit(bare)


def test_all_lists_share_one() -> None:
    held, some = SharedItems(), [standing() for _ in range(3)]
    items = {held.add(one, found(score=n / 10)) for n, one in enumerate(some)}
    assert len(items) == 1
    assert set(held.holders("a")) == set(some)
    assert (held.held_among(["b", "a"]), held.holders("b")) == (["a"], ())
    for one in some:
        assert held.held_among("a")
        held.discard(one, "a")
    assert (len(held), held.holders("a")) == (0, ())


def test_many_hold_one_as_few_do() -> None:
    held, some = SharedItems(tuple_max=3), [standing() for _ in range(9)]
    for count, one in enumerate(some, start=1):
        held.add(one, found())
        assert set(held.holders("a")) == set(some[:count])
    while some:
        held.discard(some.pop(), "a")
        assert set(held.holders("a")) == set(some)
    assert not len(held)


def test_a_vector_is_kept_once_a_list_wants_it() -> None:
    held, whole = SharedItems(), standing("vector")
    item = held.add(standing(), found())
    assert item.vector is None
    assert held.add(whole, found()) is item
    assert np.array_equal(item.vector, VECTOR)
