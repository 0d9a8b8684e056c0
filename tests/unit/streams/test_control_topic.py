"""The control topic on the log in memory: what it says, and following what changes."""

import asyncio
from dataclasses import replace

import pytest
import structlog.testing
from prometheus_client import CollectorRegistry

from contracts.errors import ModelMissing, TopicMismatch
from contracts.events.control_record import (
    ACTIVE,
    CANDIDATE,
    ActiveSpace,
    CandidateSpace,
    SpaceRef,
    no_candidate,
)
from contracts.events.record import OutRecord, Record
from contracts.testing.encoder import HashEncoder
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names
from streams.registry import control_topic as control_module
from streams.registry.control_faults import IgnoredRecords
from streams.registry.control_topic import (
    Control,
    ControlFold,
    ControlTopic,
    topics_exist,
)
from tidelens.runtime.metrics_exposition import ControlMetrics

pytestmark = pytest.mark.anyio

TOPIC = "tidelens.control"
OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")


NAMES = [Names("tidelens.", ref.space) for ref in (OLD, NEW)]
TOPICS = {TOPIC: 1} | {names.embeddings(t): 1 for names in NAMES for t in TARGETS}


def memory_log() -> MemoryEventLog:
    return MemoryEventLog(TOPICS)


async def test_an_empty_topic_says_nothing() -> None:
    assert await ControlTopic(memory_log(), TOPIC).read() == Control()


async def test_an_absent_topic_is_told() -> None:
    with pytest.raises(TopicMismatch, match=r"tidelens\.control"):
        await ControlTopic(MemoryEventLog({}), TOPIC).read()


async def test_the_last_record_of_a_key_holds() -> None:
    log = memory_log()
    first = ActiveSpace(OLD, None, 1.0)
    then = ActiveSpace(NEW, OLD, 2.0)
    candidate = CandidateSpace(NEW, 1.0, encoded_at=1.5)
    await log.publish([first.record(TOPIC), candidate.record(TOPIC), then.record(TOPIC)])
    assert await ControlTopic(log, TOPIC).read() == Control(then, candidate)
    assert then.served == [NEW, OLD]
    assert first.served == [OLD]
    await log.publish([no_candidate(TOPIC)])
    assert await ControlTopic(log, TOPIC).read() == Control(then, None)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"x"', b"{}", b'{"space": 1, "model": "", "fingerprint": null}']
)
async def test_what_cannot_be_read_changes_nothing(body: bytes) -> None:
    log = memory_log()
    active = ActiveSpace(OLD, None, 1.0)
    unknown = OutRecord(TOPIC, b"from-the-future", b"{}", partition=0)
    await log.publish([active.record(TOPIC), OutRecord(TOPIC, ACTIVE, body, partition=0), unknown])
    assert await ControlTopic(log, TOPIC).read() == Control(active)


async def test_a_follower_is_told_the_state_first_and_then_each_change_once() -> None:
    log = memory_log()
    first, then = ActiveSpace(OLD, None, 1.0), ActiveSpace(NEW, OLD, 2.0)
    await log.publish([first.record(TOPIC), then.record(TOPIC)])
    seen = ControlTopic(log, TOPIC).follow()
    async with asyncio.timeout(30):
        assert await anext(seen) == Control(then)
        # The same record once more changes nothing.
        await log.publish([then.record(TOPIC)])
        await log.publish([CandidateSpace(NEW, 3.0).record(TOPIC)])
        assert await anext(seen) == Control(then, CandidateSpace(NEW, 3.0))
    await seen.aclose()


async def test_a_follower_reads_a_topic_that_was_made_again_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The new topic has as many records as the old one, so no offset is out of range."""
    monkeypatch.setattr(
        control_module.PeriodicIdentityCheck.require, "__kwdefaults__", {"every_s": 0.0}
    )
    log = memory_log()
    first, then = ActiveSpace(OLD, None, 1.0), ActiveSpace(NEW, OLD, 2.0)
    await log.publish([first.record(TOPIC)])
    seen = ControlTopic(log, TOPIC, retry_s=0.01).follow()
    async with asyncio.timeout(30):
        assert await anext(seen) == Control(first)
        log.recreate_topic(TOPIC)
        await log.publish([then.record(TOPIC)])
        assert await anext(seen) == Control(then)
    await seen.aclose()


def raw(value: bytes | None, key: bytes = ACTIVE) -> OutRecord:
    return OutRecord(TOPIC, key, value, partition=0)


GONE = replace(NEW, space="no-such-space")
IMPOSSIBLE = [
    raw(None),
    raw(b"not json"),
    raw(b"x" * 2_000_000),
    ActiveSpace(OLD, None, float(2**60)).record(TOPIC),
    ActiveSpace(GONE, None, 3.0).record(TOPIC),
]
FAULTS = ["no_value", "not_json", "too_large", "impossible_value", "no_such_space"]


async def test_an_impossible_record_changes_nothing_and_is_told_and_counted() -> None:
    log, faults = memory_log(), IgnoredRecords()
    good = ActiveSpace(NEW, OLD, 1.0)
    await log.publish([good.record(TOPIC), *IMPOSSIBLE])
    with structlog.testing.capture_logs() as told:
        found = await ControlTopic(log, TOPIC, faults=faults).read()
        assert await ControlTopic(log, TOPIC, faults=faults).read() == found
    assert found == Control(good)
    assert sorted(one.fault for one in found.refused) == sorted(FAULTS)
    # Each is logged once, with its offset.
    assert sorted((line["partition"], line["offset"], line["fault"]) for line in told) == [
        (0, place, fault) for place, fault in enumerate(FAULTS, 1)
    ]
    assert {line["topic"] for line in told} == {TOPIC}
    shown = CollectorRegistry()
    shown.register(ControlMetrics(faults))
    samples = {(s.name, s.labels.get("fault")): s.value for m in shown.collect() for s in m.samples}
    assert samples["tidelens_control_refused_records", None] == len(FAULTS)
    assert all(samples["tidelens_control_ignored_records_total", fault] == 1 for fault in FAULTS)


async def test_a_good_record_replaces_those_that_are_ignored() -> None:
    log, faults = memory_log(), IgnoredRecords()
    again = ActiveSpace(NEW, OLD, 9.0)
    await log.publish([*IMPOSSIBLE, again.record(TOPIC)])
    found = await ControlTopic(log, TOPIC, faults=faults).read()
    assert (found, found.refused, faults.wire()) == (Control(again), (), [])


@pytest.mark.parametrize("bad", IMPOSSIBLE[1:])
async def test_where_compaction_left_only_a_bad_record_nothing_is_active(bad: OutRecord) -> None:
    log = memory_log()
    await log.publish([bad])
    found = await ControlTopic(log, TOPIC).read()
    assert (found, found.active_refused) == (Control(), True)


async def test_the_space_before_one_that_does_not_exist_stands() -> None:
    log = memory_log()
    await log.publish([ActiveSpace(GONE, OLD, 3.0).record(TOPIC)])
    found = await ControlTopic(log, TOPIC).read()
    assert (found, found.active_refused) == (Control(ActiveSpace(OLD, None, 3.0)), True)


@pytest.mark.parametrize(
    "bad", [raw(b"{", CANDIDATE), CandidateSpace(GONE, 1.0).record(TOPIC), raw(b"[]", CANDIDATE)]
)
async def test_a_bad_candidate_changes_nothing(bad: OutRecord) -> None:
    log = memory_log()
    good = CandidateSpace(NEW, 1.0)
    await log.publish([good.record(TOPIC), bad])
    assert await ControlTopic(log, TOPIC).read() == Control(None, good)
    await log.publish([no_candidate(TOPIC), bad])
    found = await ControlTopic(log, TOPIC).read()
    assert (found, found.active_refused) == (Control(), False)


async def test_a_candidate_stands_for_those_who_may_not_see_its_topics() -> None:
    log, made = memory_log(), CandidateSpace(NEW, 1.0)
    active = ActiveSpace(OLD, None, 1.0), ActiveSpace(NEW, OLD, 2.0)
    await log.publish([one.record(TOPIC) for one in (*active, made)])

    async def judge(ref: SpaceRef) -> None:
        if ref == NEW:
            raise TopicMismatch("we may not describe it")

    found = await ControlTopic(log, TOPIC, check=judge).read()
    # To answer in a space takes rights, and no record ends a node that lacks them.
    assert found == Control(active[0], made)
    assert [(one.key, one.fault) for one in found.refused] == [("active-space", "not_allowed")]


async def test_a_follower_keeps_what_stood_and_takes_a_space_that_comes_to_be() -> None:
    log, faults, there = memory_log(), IgnoredRecords(), {OLD}
    first, then = ActiveSpace(OLD, None, 1.0), ActiveSpace(NEW, OLD, 2.0)
    await log.publish([first.record(TOPIC)])

    async def judge(ref: SpaceRef) -> None:
        if ref not in there:
            raise ModelMissing(f"{ref.model} is not here")

    seen = ControlTopic(log, TOPIC, faults=faults, check=judge, recheck_s=0.0).follow()
    async with asyncio.timeout(30):
        assert await anext(seen) == Control(first)
        await log.publish([raw(None), raw(b"{"), then.record(TOPIC)])
        coming = asyncio.create_task(anext(seen))
        while len(faults.wire()) < 3:
            await asyncio.sleep(0.01)
        assert not coming.done()
        assert faults.wire()[-1]["fault"] == "not_here"
        there.add(NEW)
        assert await coming == Control(then)
    await seen.aclose()
    assert faults.wire() == []


async def test_a_follower_keeps_the_active_space_of_a_topic_that_was_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        control_module.PeriodicIdentityCheck.require, "__kwdefaults__", {"every_s": 0.0}
    )
    log, first = memory_log(), ActiveSpace(OLD, None, 1.0)
    await log.publish([first.record(TOPIC), CandidateSpace(NEW, 1.0).record(TOPIC)])
    seen = ControlTopic(log, TOPIC, retry_s=0.01).follow()
    async with asyncio.timeout(30):
        assert (await anext(seen)).active == first
        log.recreate_topic(TOPIC)
        assert await anext(seen) == Control(first, None)
    await seen.aclose()


async def test_what_is_kept_of_bad_records_is_bounded() -> None:
    standing = ControlFold(topics_exist(memory_log(), TOPIC), kept_max=10)
    good = ActiveSpace(NEW, OLD, 1.0).record(TOPIC)
    standing.add(Record(TOPIC, 0, 0, 0, ACTIVE, good.value))
    for offset in range(1, 100):
        standing.add(Record(TOPIC, 0, offset, 0, ACTIVE, b"{"))
        standing.add(Record(TOPIC, 0, offset, 0, b"other", b"{"))
    found = await standing.current()
    assert found.active is not None
    assert len(found.refused) == 9 + 10
