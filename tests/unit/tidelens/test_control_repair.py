"""`tidelens control`: shows what stands and what is ignored, and writes good records over it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from contracts.errors import TopicMismatch, UsageError
from contracts.events.control_record import ACTIVE, CANDIDATE, ActiveSpace, CandidateSpace, SpaceRef
from contracts.events.partition_count_record import (
    PARTITIONS,
    CreatedTopic,
    RecordedPartitionCounts,
)
from contracts.events.record import OutRecord
from contracts.settings import KafkaSettings, Settings
from contracts.testing.encoder import HashEncoder
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names
from streams.kafka.connection import KafkaConnection
from streams.registry.control_topic import Control
from tidelens.cli.base import open_collection
from tidelens.cli.control import control as control_command
from tidelens.cli.doctor import control as doctor
from tidelens.migration.collection import OpenCollection
from tidelens.migration.control_repair import repair

pytestmark = pytest.mark.anyio

TOPIC = "tidelens.control"
OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")
BAD = OutRecord(TOPIC, ACTIVE, b'{"space": "x"}', partition=0)
BAD_CANDIDATE = OutRecord(TOPIC, CANDIDATE, b"{", partition=0)


def collection() -> OpenCollection:
    names = [Names("tidelens.", ref.space) for ref in (OLD, NEW)]
    topics = {f(t): 1 for n in names for f in (n.content, n.embeddings) for t in TARGETS}
    log = MemoryEventLog({TOPIC: 1} | topics)
    return OpenCollection(Settings(), KafkaConnection("k:1", KafkaSettings()), log)


async def test_the_last_good_records_are_written_again() -> None:
    one = collection()
    active, made = ActiveSpace(NEW, OLD, 1.0), CandidateSpace(OLD, 2.0)
    await one.write(active.record(TOPIC), made.record(TOPIC), BAD, BAD_CANDIDATE)
    assert len((await one.control()).refused) == 2
    assert len(await repair(one, None)) == 2
    found = await one.control()
    assert found.active is not None
    assert (found.active.current, found.active.previous) == (NEW, OLD)
    assert (found.active.at > 1.0, found.candidate, found.refused) == (True, made, ())
    assert await repair(one, None) == []


async def test_the_kept_partition_counts_are_written_again_or_given_up() -> None:
    """Compaction would leave the ignored record alone."""
    one = collection()
    bad, kept = OutRecord(TOPIC, PARTITIONS, b"{", partition=0), {"images": CreatedTopic("id", 3)}
    await one.write(bad)
    assert [record.value for record in await repair(one, None)] == [None]
    assert (await one.control()).refused == ()
    await one.write(RecordedPartitionCounts(kept).record(TOPIC), bad)
    assert await repair(one, None) == [RecordedPartitionCounts(kept).record(TOPIC)]
    assert (await one.control()).refused == ()


async def test_records_with_unknown_keys_are_deleted_only_where_the_operator_says_so() -> None:
    """A newer version may have written them."""
    one, keys = collection(), [b"later", b"\xff"]
    await one.write(*(OutRecord(TOPIC, key, b"{}", partition=0) for key in [*keys, b"later"]))
    assert await repair(one, None) == []
    assert len((await one.control()).refused) == 3
    deleted = await repair(one, None, unknown_keys=True)
    assert [(record.key, record.value) for record in deleted] == [(key, None) for key in keys]
    assert (await one.control()).refused == ()
    assert await repair(one, None, unknown_keys=True) == []


async def test_where_no_good_record_is_left_the_operator_says_which_model() -> None:
    one = collection()
    await one.write(BAD, BAD_CANDIDATE)
    with pytest.raises(UsageError, match="--model"):
        await repair(one, None)
    assert len(await repair(one, "hash:48")) == 2
    found = await one.control()
    assert found.active is not None
    assert (found.active.current, found.candidate, found.refused) == (NEW, None, ())


async def test_a_record_whose_model_is_not_here_is_not_written_again() -> None:
    one = collection()
    lost = SpaceRef(NEW.space, "/no/such/model", NEW.fingerprint)
    await one.write(ActiveSpace(lost, None, 1.0).record(TOPIC), BAD)
    with pytest.raises(UsageError, match=r"/no/such/model.*--model"):
        await repair(one, None)
    await repair(one, "hash:48")
    found = await one.control()
    assert found.active is not None and found.active.current.model == "hash:48"


async def test_a_space_that_is_not_there_is_not_made_the_active_one() -> None:
    one = collection()
    with pytest.raises(TopicMismatch, match="hash-7"):
        await repair(one, "hash:7")
    assert await one.control() == Control()


def test_the_command_shows_and_repairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = collection()

    @asynccontextmanager
    async def opened(*_: Any, **__: Any) -> AsyncIterator[OpenCollection]:
        if not one.event_log.records:  # type: ignore[attr-defined]
            await one.write(ActiveSpace(NEW, OLD, 1.0).record(TOPIC), BAD)
        yield one

    monkeypatch.setattr(open_collection, "open_collection", opened)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(control_command, arguments)
        return result.exit_code, result.stdout

    code, shown = run("show")
    assert code == 1
    assert "active: hash-48 of model hash:48 (71544e9c60623a1c)" in shown
    assert "kept for a rollback: hash-v1" in shown
    assert "ignored: tidelens.control/0 offset 1 (active-space): missing_field: model" in shown
    code, wire = run("show", "--json")
    [refused] = orjson.loads(wire.splitlines()[-1])["refused"]
    assert (code, refused["offset"], refused["fault"]) == (1, 1, "missing_field")
    code, told = run("repair")
    assert (code, "wrote active-space" in told) == (0, True)
    assert run("repair") == (0, "nothing to repair\n")
    assert run("show")[0] == 0
    asyncio.run(one.write(OutRecord(TOPIC, b"\xff\n", b"{}", partition=0)))
    code, shown = run("show")
    assert (code, "control repair --unknown-keys`" in shown) == (1, True)
    assert "control repair`" not in shown
    code, told = run("repair", "--unknown-keys")
    assert (code, told.splitlines()[-1]) == (0, "wrote \\xff\\n: none")
    assert run("show")[0] == 0


async def test_the_doctor_names_what_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    one = collection()
    await one.write(ActiveSpace(NEW, OLD, 1.0).record(TOPIC))

    async def ask(*_: object) -> Control:
        return await one.control()

    monkeypatch.setattr("tidelens.cli.base.served_space.ask_control", ask)
    settings = Settings(brokers="k:1")
    [fine] = await doctor.control(settings, KafkaSettings())
    assert fine.state == "ok"
    await one.write(BAD)
    [told] = await doctor.control(settings, KafkaSettings())
    assert (told.state, told.fix) == ("warning", "tidelens control repair")
    assert "tidelens.control/0 offset 1 (active-space): missing_field" in told.detail
    await one.write(OutRecord(TOPIC, b"later", b"{}", partition=0))
    found = await doctor.control(settings, KafkaSettings())
    assert {one.fix for one in found} == {
        "tidelens control repair",
        "tidelens control repair --unknown-keys",
    }
