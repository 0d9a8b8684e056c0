"""Turns of the query encoder's model, without a model."""

import asyncio

import numpy as np
import pytest

from consumers.queries.turns import PendingQuery, QueryTurns

pytestmark = pytest.mark.anyio


def text(name: str) -> PendingQuery:
    return PendingQuery(name.encode(), [name], asyncio.get_running_loop().create_future())


def picture(name: str) -> PendingQuery:
    pixels = np.zeros((2, 2, 3), np.uint8)
    return PendingQuery(name.encode(), pixels, asyncio.get_running_loop().create_future())


def names(batch: list[PendingQuery]) -> str:
    return b" ".join(waiting.key for waiting in batch).decode()


async def test_texts_never_share_a_turn_with_pictures_and_wait_for_one_of_theirs() -> None:
    turns = QueryTurns(batch_max=4, picture_turn_s=0.025)
    for name in "PQRS":
        turns.add(picture(name))
    assert names(turns.take_batch()) == "P"
    for name in "abcdef":
        turns.add(text(name))
    # Pictures have waited longer, and still the texts come now.
    assert names(turns.take_batch()) == "a b c d"
    assert names(turns.take_batch()) == "Q"
    assert names(turns.take_batch()) == "e f"
    assert [names(turns.take_batch()) for _ in range(3)] == ["R", "S", ""]


async def test_pictures_take_as_many_as_their_turn_holds() -> None:
    turns = QueryTurns(batch_max=32, picture_turn_s=0.025)
    sizes = []
    for number in range(100):
        turns.add(picture(str(number)))
    for _ in range(5):  # a model that takes 4 ms, and 2 ms for each picture
        batch = turns.take_batch()
        sizes.append(len(batch))
        turns.note_duration(batch, 0.004 + 0.002 * len(batch))
    assert sizes == [1, 2, 4, 8, 10]
    batch = turns.take_batch()
    turns.note_duration(batch, 3.0)  # and then one that takes half a second for each
    assert len(turns.take_batch()) == 1


async def test_what_nobody_awaits_has_no_turn() -> None:
    turns = QueryTurns(batch_max=4, picture_turn_s=0.025)
    left, stays, one, other = picture("left"), picture("stays"), text("one"), text("other")
    for waiting in (left, stays, one, other):
        turns.add(waiting)
    left.future.cancel()
    one.future.cancel()
    assert names(turns.take_batch()) == "other"
    assert names(turns.take_batch()) == "stays"
    assert len(turns) == 0
