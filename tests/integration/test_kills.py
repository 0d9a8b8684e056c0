"""kill -9 of each role between any two steps of its commit: nothing lost, nothing twice.

Each round publishes, runs the role until it kills itself at the named point, runs it again, and
compares the index with a brute-force reading of the log.
"""

import asyncio
import random
from pathlib import Path

import pytest

from contracts.embedding import read_embedding
from contracts.events import content_record, delete_record
from contracts.faults import POINTS
from contracts.memory import HashEncoder
from contracts.topics import TARGETS
from tests.kit import Collection, caption, collection
from tests.roles import answering, free_port, of, role
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(150)]

ENCODER = HashEncoder()
ENCODE_POINTS = sorted(p for p in POINTS if p.startswith("encode."))
INDEX_POINTS = sorted(p for p in POINTS if not p.startswith("encode."))


def seed() -> random.Random:
    number = random.SystemRandom().randrange(2**32)
    print(f"seed {number}")
    return random.Random(number)


async def churn(kit: Collection, dice: random.Random, count: int) -> None:
    """Puts, updates and deletes of few ids."""
    topic = kit.names.content("captions")
    for _ in range(count // 20):
        records = []
        for _ in range(20):
            item = f"item-{dice.randrange(60)}"
            if dice.random() < 0.2:
                records.append(delete_record(topic, item))
            else:
                records.append(content_record(topic, caption(item, f"text {dice.random()}")))
        await kit.log.publish(records)


async def all_encoded(kit: Collection) -> None:
    """Wait until the encoders' offsets cover the content."""
    topics = [kit.names.content(target) for target in TARGETS]
    async with asyncio.timeout(40):
        while True:
            committed = await kit.log.committed(kit.names.encoder_group)
            behind = 0
            for topic in topics:
                for partition, records in (await kit.read_all(topic)).items():
                    if records:
                        end = records[-1].offset + 1
                        behind += committed.get((topic, partition), 0) < end
            if not behind:
                return
            await asyncio.sleep(0.1)


async def assert_encoded_exactly_once_in_order(kit: Collection) -> None:
    """Per partition: rising source offsets, and the newest of each id is the content's newest."""
    content = await kit.read_all(kit.names.content("captions"))
    embedded = await kit.read_all(kit.names.embeddings("captions"))
    for partition in range(kit.partitions):
        read = [read_embedding(ENCODER.space, r) for r in embedded[partition]]
        offsets = [e.source.offset for e in read]
        assert offsets == sorted(set(offsets)), f"partition {partition}: order or repeats"
        newest = {(r.key or b"").decode(): r for r in content[partition]}
        last = {e.id: e for e in read}
        assert {i: r.offset for i, r in newest.items()} == {
            i: e.source.offset for i, e in last.items()
        }
        assert {i: r.value is None for i, r in newest.items()} == {
            i: e.vector is None for i, e in last.items()
        }


@pytest.mark.parametrize("point", ENCODE_POINTS)
async def test_a_killed_encoder(kafka, tmp_path: Path, point: str) -> None:
    dice = seed()
    async with collection(kafka.bootstrap, space=ENCODER.space.name, partitions=2) as kit:
        await churn(kit, dice, 200)
        nth = dice.randint(1, 2)
        limits = {"TIDELENS_ENCODE_BATCH_RECORDS": "40"}
        async with role(tmp_path, "encode", *of(kit), fault=f"{point}:{nth}", **limits) as first:
            assert await first.ended() == -9
        await churn(kit, dice, 100)
        async with role(tmp_path, "encode", *of(kit), **limits) as second:
            await all_encoded(kit)
            assert await second.stop() == 0
        await assert_encoded_exactly_once_in_order(kit)


@pytest.mark.parametrize("point", INDEX_POINTS)
async def test_a_killed_index_node(kafka, tmp_path: Path, point: str) -> None:
    dice = seed()
    port = free_port()
    async with collection(kafka.bootstrap, space=ENCODER.space.name, partitions=2) as kit:
        arguments = of(kit, "--port", str(port))
        often = {"TIDELENS_SNAPSHOT_EVERY_S": "1", "TIDELENS_SCANNED_ROWS_MAX": "20"}
        async with role(tmp_path, "encode", *of(kit)):
            await churn(kit, dice, 100)
            await all_encoded(kit)
            fault = f"{point}:{dice.randint(1, 2)}"
            async with role(tmp_path, "index", *arguments, fault=fault, **often) as first:
                async with asyncio.timeout(60):
                    while first.process.returncode is None:
                        await churn(kit, dice, 20)
                        await asyncio.sleep(0.3)
                assert await first.ended() == -9
            await churn(kit, dice, 60)
            await all_encoded(kit)
            async with (
                role(tmp_path, "index", *arguments, **often) as second,
                Client(f"http://127.0.0.1:{port}") as client,
            ):
                await answering(client, second)
                await assert_index_is_the_log(kit, client)
                digests = (await client.get("/v1/status"))["digests"]
                assert await second.stop() == 0
        # A full replay elsewhere, from the beginning, comes to the same.
        (tmp_path / "fresh").mkdir()
        async with (
            role(tmp_path / "fresh", "index", *arguments) as fresh,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, fresh)
            replayed = (await client.get("/v1/status"))["digests"]
            assert [d["digest"] for d in replayed] == [d["digest"] for d in digests]


async def assert_index_is_the_log(kit: Collection, client: Client) -> None:
    truth = await kit.truth(ENCODER)
    query = {"text": "text", "target": "captions", "k": 1000, "include": ["vector"]}
    hits = (await client.search(query))["hits"]
    assert {hit["id"] for hit in hits} == {item for _, item in truth}
    for hit in hits:
        expected = truth["captions", hit["id"]]
        assert expected.vector is not None
        assert hit["source"]["offset"] == expected.source.offset
        assert hit["vector"] == [float(number) for number in expected.vector]
