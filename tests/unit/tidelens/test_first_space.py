"""The space that a node answers in at its start, when the active one cannot be opened."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.errors import ModelMissing
from contracts.events.control_record import ActiveSpace, SpaceRef
from contracts.settings import Settings
from contracts.testing.encoder import HashEncoder
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names
from streams.registry.control_topic import Control, ControlTopic
from tidelens.runtime.first_space import first_queries, openable, remembering
from tidelens.runtime.model_guess import guessed_model
from tidelens.runtime.query_encoder import QueryEncoderTask, make_queries
from tidelens.runtime.run_file import remember_model, remembered_model

pytestmark = pytest.mark.anyio

TOPIC = "tidelens.control"
OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")
# A space whose topics are there, and whose model is here no more.
LOST = SpaceRef(NEW.space, "/no/such/model", NEW.fingerprint)
# This one has the same name, and another model than the one on this machine.
OTHER = SpaceRef(NEW.space, NEW.model, "0" * 16)


def memory_log(*refs: SpaceRef) -> MemoryEventLog:
    names = [Names("tidelens.", ref.space) for ref in refs]
    return MemoryEventLog({TOPIC: 1} | {n.embeddings(t): 1 for n in names for t in TARGETS})


async def remember(data: Path, model: str) -> None:
    await asyncio.to_thread(remember_model, data, model)


async def opened(
    data: Path, log: MemoryEventLog, *said: ActiveSpace, model: str = "hash"
) -> tuple[str, Control]:
    await log.publish([active.record(TOPIC) for active in said])
    control = await ControlTopic(log, TOPIC).read()
    queries = await first_queries(Settings(model=model, data=data), log, control)
    return queries.space.name, control


async def test_the_active_space_comes_first(tmp_path: Path) -> None:
    log = memory_log(OLD, NEW)
    space, _ = await opened(tmp_path, log, ActiveSpace(NEW, OLD, 1.0))
    assert space == NEW.space


@pytest.mark.parametrize("bad", [LOST, OTHER])
async def test_the_one_before_it_stands_in(tmp_path: Path, bad: SpaceRef) -> None:
    log = memory_log(OLD, NEW)
    space, _ = await opened(tmp_path, log, ActiveSpace(bad, OLD, 1.0), model="starter")
    assert space == OLD.space


async def test_an_earlier_record_stands_in(tmp_path: Path) -> None:
    log = memory_log(OLD, NEW)
    said = ActiveSpace(OLD, None, 1.0), ActiveSpace(LOST, None, 2.0)
    space, control = await opened(tmp_path, log, *said, model="starter")
    assert (space, control.before) == (OLD.space, (OLD,))


async def test_then_what_was_remembered_and_then_the_settings(tmp_path: Path) -> None:
    log = memory_log(OLD, NEW)
    gone = ActiveSpace(SpaceRef("gone", "/gone", "0" * 16), None, 1.0)
    space, control = await opened(tmp_path, log, gone)
    assert (space, control.active) == (OLD.space, None)
    await remember(tmp_path, "hash:48")
    assert (await opened(tmp_path, log))[0] == NEW.space
    await remember(tmp_path, "/no/such/model")
    assert (await opened(tmp_path, log))[0] == OLD.space


async def test_before_the_first_switch_it_is_that_of_the_settings(tmp_path: Path) -> None:
    await remember(tmp_path, "hash:48")
    # Its topics may not be there yet: `up` makes them.
    space, _ = await opened(tmp_path, memory_log(NEW))
    assert space == OLD.space


async def test_a_space_without_topics_does_not_stand_in(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="/no/such/model"):
        await opened(tmp_path, memory_log(NEW), ActiveSpace(LOST, None, 1.0))


async def test_what_was_started_is_used_or_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, settings = memory_log(OLD, NEW), Settings(model="hash", data=tmp_path)
    started = make_queries(settings, "hash:48")
    taken = await first_queries(settings, log, Control(ActiveSpace(NEW, OLD, 1.0)), started)
    stopped: list[QueryEncoderTask] = []

    async def stop(queries: QueryEncoderTask) -> None:
        stopped.append(queries)

    monkeypatch.setattr(QueryEncoderTask, "stop", stop)
    assert (taken, stopped) == (started, [])
    other = await first_queries(settings, log, Control(ActiveSpace(OLD, NEW, 1.0)), started)
    assert (other.space.name, stopped) == (OLD.space, [started])


def test_a_guess_that_is_not_here_is_none(tmp_path: Path) -> None:
    settings = Settings(model="hash", data=tmp_path)
    assert guessed_model(settings) == "hash"
    remember_model(tmp_path, "hash:48")
    assert guessed_model(settings) == "hash:48"
    (tmp_path / "file").touch()
    for wrong in ("/no/such/model", str(tmp_path / "file"), "a\nb", "x" * 10_000):
        remember_model(tmp_path, wrong)
        assert guessed_model(settings) == "hash"


async def test_encoders_follow_only_what_can_be_encoded_here() -> None:
    log = memory_log(OLD, NEW)
    said = ActiveSpace(OLD, None, 1.0), ActiveSpace(LOST, None, 2.0)
    await log.publish([active.record(TOPIC) for active in said])
    found = await ControlTopic(log, TOPIC, check=openable(log, TOPIC)).read()
    assert found == Control(said[0])
    assert [one.fault for one in found.refused] == ["not_here"]


async def test_what_answered_last_is_remembered_over_a_bad_record(tmp_path: Path) -> None:
    log = memory_log(OLD, NEW)
    await log.publish([ActiveSpace(SpaceRef("gone", "/gone", "0" * 16), None, 1.0).record(TOPIC)])
    refused = await ControlTopic(log, TOPIC).read()

    async def followed() -> AsyncIterator[Control]:
        yield Control(ActiveSpace(NEW, OLD, 1.0))
        yield refused

    async for _ in remembering(tmp_path, followed()):
        assert await asyncio.to_thread(remembered_model, tmp_path) == "hash:48"
