"""`tidelens dead-letters` on the real broker, with letters that a real encoder wrote."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.events.content_event import EVENT_TYPES, content_record
from contracts.events.record import OutRecord
from contracts.supervision.children import module_command
from contracts.testing.encoder import HashEncoder
from streams.ownership.kafka_ownership import KafkaEncoderLog
from tests.kits.kafka import MURMUR2, RECORD_BYTES_MAX, Collection, caption, collection, worker

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

PARTITIONS = 2


@asynccontextmanager
async def encoding(kit: Collection) -> AsyncIterator[None]:
    log = KafkaEncoderLog(
        kit.connection, kit.names, record_bytes_max=RECORD_BYTES_MAX, session_timeout_ms=6_000
    )
    async with log.join(kit.names.encoder_group) as ownership:
        running = asyncio.create_task(worker(ownership, kit.names, PARTITIONS).run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def tidelens(kit: Collection, *arguments: str, rc: int = 0) -> Any:
    """Return what `tidelens dead-letters ...` prints, parsed if it is JSON."""
    done = await asyncio.to_thread(
        subprocess.run,
        module_command("tidelens", "dead-letters", *arguments),
        env={
            **os.environ,
            "TIDELENS_BROKERS": kit.connection.brokers,
            "TIDELENS_TOPIC_PREFIX": kit.names.prefix,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == rc, done.stderr
    if rc:
        assert done.stderr.count("\n") == 1
        return done.stderr
    return orjson.loads(done.stdout) if "--json" in arguments else done.stdout


async def letters_in(kit: Collection, count: int) -> None:
    async with asyncio.timeout(60):
        while True:
            found = (await kit.read_all(kit.names.dead_letters)).values()
            if sum(map(len, found)) >= count:
                return
            await asyncio.sleep(0.2)


async def test_from_a_refusal_to_its_end(kafka, tmp_path: Path) -> None:
    async with collection(kafka.bootstrap, partitions=PARTITIONS) as kit:
        topic = kit.names.content("captions")
        stray = content_record(topic, caption("stray", "a red fox"))
        away = 1 - MURMUR2(b"stray", PARTITIONS)
        bad = OutRecord(
            topic, b"bad", b'{"text": ""}', [("ce_type", EVENT_TYPES["captions"].encode())]
        )
        replaced = OutRecord(topic, b"replaced", b"no JSON", bad.headers)
        stray = OutRecord(topic, stray.key, stray.value, stray.headers, away)
        async with encoding(kit):
            await kit.log.publish([stray, bad, replaced])
            await letters_in(kit, 3)
            await kit.log.publish([content_record(topic, caption("replaced", "a newer one"))])

            # 1. What there is, and why.
            listed = {one["id"]: one for one in await tidelens(kit, "list", "--json")}
            reasons = {name: one["reason"] for name, one in listed.items()}
            assert reasons["stray"] == "wrong_partition"
            assert reasons.keys() == {"stray", "bad", "replaced"}
            assert "red fox" not in await tidelens(kit, "list", "--reason", "wrong_partition")
            saved = tmp_path / "value"
            shown = await tidelens(
                kit, "show", listed["bad"]["letter"], "--json", "--save", str(saved)
            )
            assert (shown["value"], saved.read_bytes()) == ('{"text": ""}', b'{"text": ""}')
            assert shown["headers"] == {"ce_type": EVENT_TYPES["captions"]}

            # 2. Another try: one is served, one fails again, one has been replaced.
            done = {one["letter"]: one["outcome"] for one in await retried(kit)}
            assert {name: done[one["letter"]] for name, one in listed.items()} == {
                "stray": "retried",
                "bad": "retried",
                "replaced": "superseded",
            }
            await letters_in(kit, 7)  # three, their marks, and the one that failed again
            # Partitions are committed one by one.
            served = {"stray": "a red fox", "replaced": "a newer one"}
            async with asyncio.timeout(30):
                while await texts(kit) != served:
                    await asyncio.sleep(0.2)

        # 3. Nobody will look at that one again.
        [left] = await tidelens(kit, "list", "--json")
        assert (left["id"], left["outcome"]) == ("bad", None)
        assert await tidelens(kit, "discard", left["letter"], "--json") == {"discarded": 1}
        assert await tidelens(kit, "list", "--json") == []
        outcomes = [one["outcome"] for one in await tidelens(kit, "list", "--handled", "--json")]
        assert sorted(outcomes) == ["discarded", "retried", "retried", "superseded"]


async def texts(kit: Collection) -> dict[str, str | None]:
    truth = await kit.truth(HashEncoder())
    return {item_id: embedding.text for (_, item_id), embedding in truth.items()}


async def retried(kit: Collection) -> Any:
    return await tidelens(kit, "retry", "--all", "--json")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "7"], "LETTER: want PARTITION:OFFSET, got '7'"),
        (["show", "0:7"], "letter: there is none at 0:7"),
        (["retry"], "want LETTERs or --all, and not both"),
        (["discard", "0:1", "--all"], "want LETTERs or --all, and not both"),
        (["discard", "0:1"], "LETTER: there is none at 0:1"),
    ],
)
async def test_mistakes_are_one_line(kafka, arguments: list[str], says: str) -> None:
    async with collection(kafka.bootstrap, partitions=PARTITIONS) as kit:
        assert says in await tidelens(kit, *arguments, rc=2)
