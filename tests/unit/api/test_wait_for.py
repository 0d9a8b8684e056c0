"""`wait_for`: publish tokens, earlier answers, dead letters, superseded records, time limits."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from api.queries.wait_for import StateWaiter
from contracts.errors import BrokerUnavailable
from contracts.events.record import OutRecord, TopicPartition
from tests.kits.api_kit import NAMES, Kit
from tests.kits.waiting import turns, until

pytestmark = pytest.mark.anyio


def token(offset: int, partition: int = 0, topic: str = "tidelens.captions") -> dict[str, Any]:
    return {"topic": topic, "partition": partition, "offset": offset}


async def search(kit: Kit, wait_for: Any, **rest: Any) -> Any:
    query = {"text": "cat", "target": "captions", "wait_for": wait_for, **rest}
    return (await kit.http.post("/v1/search", json=query)).json()


async def waiting(kit: Kit, wait_for: Any) -> "asyncio.Task[Any]":
    task = asyncio.create_task(search(kit, wait_for))
    await turns(200)
    assert not task.done()
    return task


async def test_a_token_that_was_passed_does_not_wait() -> None:
    kit = Kit()
    kit.caption("a", "cat")
    assert len((await search(kit, token(0)))["hits"]) == 1


async def test_a_token_is_waited_for() -> None:
    kit = Kit()
    task = await waiting(kit, token(0))
    kit.caption("a", "cat")
    async with asyncio.timeout(60):
        assert len((await task)["hits"]) == 1


async def test_a_record_that_left_no_trace_is_passed_by_the_high_watermark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was superseded within a transaction: its offset is never seen in the index."""
    kit = Kit(waiter=partial(StateWaiter, ask_broker_every_s=0.01))
    end_offsets, reads = kit.log.end_offsets, 0

    async def counted(partitions: Sequence[TopicPartition]) -> Any:
        nonlocal reads
        found = await end_offsets(partitions)
        reads += 1
        return found

    monkeypatch.setattr(kit.log, "end_offsets", counted)
    task = await waiting(kit, token(7))
    await kit.log.commit(NAMES.encoder_group, {TopicPartition("tidelens.captions", 0): 8})
    embeddings = NAMES.embeddings("captions")
    await kit.log.publish([OutRecord(embeddings, b"x", b"", partition=0)] * 3)
    await until(lambda: reads)
    await turns(200)
    assert not task.done(), "the encoder has passed it, the index not what the encoder wrote"
    kit.index.move("captions", 0, 3)
    async with asyncio.timeout(60):
        assert (await task)["as_of"]["offsets"]["captions"] == [3, 0]


async def test_a_dead_lettered_record_is_told_with_its_reason() -> None:
    kit = Kit()
    kit.index.sources["images", 1] = 4
    kit.index.reasons["images", 1, 3] = "image_format: not a picture"
    query = {"text": "cat", "wait_for": token(3, 1, "tidelens.images")}
    response = await kit.http.post("/v1/search", json=query)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "dead_lettered")
    assert problem["value"] == "image_format: not a picture"
    assert "not a picture" in problem["detail"]


async def test_an_earlier_answer_is_waited_for_on_another_replica() -> None:
    ahead, behind = Kit(), Kit()
    ahead.caption("a", "cat")
    as_of = (await search(ahead, None))["as_of"]
    task = await waiting(behind, as_of)
    behind.caption("a", "cat")
    assert (await task)["as_of"] == as_of


async def test_the_wait_is_bounded_by_timeout_and_by_the_limit() -> None:
    kit = Kit(wait_s_max=0.05)
    problem = await search(kit, token(0))
    assert (problem["status"], problem["code"]) == (504, "timed_out")
    kit = Kit()
    assert (await search(kit, token(0), timeout_s=0.05))["status"] == 504


async def test_a_broker_that_is_away_does_not_end_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit(waiter=partial(StateWaiter, ask_broker_every_s=0.01))
    asked = 0

    async def committed(_: str) -> Any:
        nonlocal asked
        asked += 1
        raise BrokerUnavailable("no broker")

    monkeypatch.setattr(kit.log, "committed", committed)
    task = await waiting(kit, token(0))
    await until(lambda: asked >= 2)
    assert not task.done()
    kit.caption("a", "cat")
    assert len((await task)["hits"]) == 1


@pytest.mark.parametrize(
    ("wait_for", "status", "code"),
    [
        (token(0, 9), 400, "unknown_partition"),
        (token(0, 0, "other.captions"), 400, "unknown_partition"),
        (token(0, 0, "tidelens.embeddings.hash-v1.captions"), 400, "unknown_partition"),
        ({"space": "old", "epoch": "epoch-1", "offsets": {}}, 409, "other_space"),
        ({"space": "hash-v1", "epoch": "old", "offsets": {}}, 409, "other_epoch"),
        ({"space": "hash-v1", "epoch": "epoch-1", "offsets": {}}, 400, "invalid_request"),
        (
            {"space": "hash-v1", "epoch": "epoch-1", "offsets": {"images": [1], "captions": [1]}},
            400,
            "invalid_request",
        ),
    ],
)
async def test_what_can_never_come_is_refused(wait_for: Any, status: int, code: str) -> None:
    problem = await search(Kit(), wait_for)
    assert (problem["status"], problem["code"], problem["field"]) == (status, code, "wait_for")


async def test_a_log_made_anew_during_the_wait_is_told() -> None:
    kit = Kit()
    as_of = {"space": "hash-v1", "epoch": "epoch-1", "offsets": {"images": [5, 5]}}
    task = await waiting(kit, as_of | {"offsets": {"images": [5, 5], "captions": [0, 0]}})
    kit.index.restart("epoch-2")
    assert (await task)["code"] == "other_epoch"
