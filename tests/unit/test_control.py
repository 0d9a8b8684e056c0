"""The control topic on the log in memory: what it says, and following what changes."""

import asyncio

import pytest

from contracts.errors import TopicMismatch
from contracts.memory import HashEncoder, MemoryLog
from contracts.records import OutRecord
from streams import control
from streams.control import (
    ACTIVE,
    ActiveSpace,
    CandidateSpace,
    Control,
    SpaceRef,
    follow_control,
    no_candidate,
    read_control,
)

pytestmark = pytest.mark.anyio

TOPIC = "tidelens.control"
OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")


def memory_log() -> MemoryLog:
    return MemoryLog({TOPIC: 1})


async def test_an_empty_topic_says_nothing() -> None:
    assert await read_control(memory_log(), TOPIC) == Control()


async def test_an_absent_topic_is_told() -> None:
    with pytest.raises(TopicMismatch, match=r"tidelens\.control"):
        await read_control(MemoryLog({}), TOPIC)


async def test_the_last_record_of_a_key_holds() -> None:
    log = memory_log()
    first = ActiveSpace(OLD, None, 1.0)
    then = ActiveSpace(NEW, OLD, 2.0)
    candidate = CandidateSpace(NEW, 1.0, encoded_at=1.5)
    await log.publish([first.record(TOPIC), candidate.record(TOPIC), then.record(TOPIC)])
    assert await read_control(log, TOPIC) == Control(then, candidate)
    assert then.served == [NEW, OLD]
    assert first.served == [OLD]
    await log.publish([no_candidate(TOPIC)])
    assert await read_control(log, TOPIC) == Control(then, None)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"x"', b"{}", b'{"space": 1, "model": "", "fingerprint": null}']
)
async def test_what_cannot_be_read_changes_nothing(body: bytes) -> None:
    log = memory_log()
    active = ActiveSpace(OLD, None, 1.0)
    unknown = OutRecord(TOPIC, b"from-the-future", b"{}", partition=0)
    await log.publish([active.record(TOPIC), OutRecord(TOPIC, ACTIVE, body, partition=0), unknown])
    assert await read_control(log, TOPIC) == Control(active)


async def test_a_follower_is_told_the_state_first_and_then_each_change_once() -> None:
    log = memory_log()
    first, then = ActiveSpace(OLD, None, 1.0), ActiveSpace(NEW, OLD, 2.0)
    await log.publish([first.record(TOPIC), then.record(TOPIC)])
    seen = follow_control(log, TOPIC)
    async with asyncio.timeout(30):
        assert await anext(seen) == Control(then)
        # The same once more is no change.
        await log.publish([then.record(TOPIC)])
        await log.publish([CandidateSpace(NEW, 3.0).record(TOPIC)])
        assert await anext(seen) == Control(then, CandidateSpace(NEW, 3.0))
    await seen.aclose()


async def test_a_follower_reads_a_topic_that_was_made_again_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many records as before lie in the new one, so no offset is out of range."""
    monkeypatch.setattr(control.Recheck.require, "__kwdefaults__", {"every_s": 0.0})
    monkeypatch.setattr(control, "_AGAIN_S", 0.01)
    log = memory_log()
    first, then = ActiveSpace(OLD, None, 1.0), ActiveSpace(NEW, OLD, 2.0)
    await log.publish([first.record(TOPIC)])
    seen = follow_control(log, TOPIC)
    async with asyncio.timeout(30):
        assert await anext(seen) == Control(first)
        log.create_again(TOPIC)
        await log.publish([then.record(TOPIC)])
        assert await anext(seen) == Control(then)
    await seen.aclose()
