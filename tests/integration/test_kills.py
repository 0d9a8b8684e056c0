"""A `kill -9` of each role between any two steps of its commit loses and repeats nothing.

Each test publishes, runs the role until it kills itself at the named point, runs it again, and
compares the result with a brute-force reading of the log.
"""

from pathlib import Path

import pytest

from contracts.events.embedding_record import read_embedding
from tests.faults.kill_rounds import (
    ENCODER,
    ENCODER_POINTS,
    NODE_POINTS,
    Rounds,
    all_encoded,
    assert_index_is_the_log,
    churn,
    seed,
)
from tests.kits.kafka import Collection, collection
from tests.kits.roles import answering, free_port, of, role
from tests.kits.s3_fixture import S3Link, S3Server
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(400)]


async def assert_encoded_exactly_once_in_order(kit: Collection) -> None:
    """Require rising source offsets in each partition, and the newest content of each id."""
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


@pytest.mark.parametrize("point", ENCODER_POINTS)
async def test_a_killed_encoder(kafka, tmp_path: Path, point: str) -> None:
    dice = seed()
    async with collection(kafka.bootstrap, space=ENCODER.space.name, partitions=2) as kit:
        await churn(kit, dice, 200)
        nth = dice.randint(1, 2)
        limits = {"TIDELENS_ENCODE_BATCH_CAPTIONS": "40"}
        async with role(tmp_path, "encode", *of(kit), fault=f"{point}:{nth}", **limits) as first:
            assert await first.ended() == -9
        await churn(kit, dice, 100)
        async with role(tmp_path, "encode", *of(kit), **limits) as second:
            await all_encoded(kit)
            assert await second.stop() == 0
        await assert_encoded_exactly_once_in_order(kit)


# The other two rooms take half a minute each.
@pytest.mark.parametrize(
    "room",
    [
        "index",
        pytest.param("snapshot", marks=pytest.mark.long),
        pytest.param("rebuild", marks=pytest.mark.long),
    ],
)
async def test_a_killed_node(kafka, s3: S3Link, tmp_path: Path, room: str) -> None:
    """A node is killed at each of its points; S3 is away for a while, and the broker stays up."""
    points = [point for point in NODE_POINTS if point.startswith(f"{room}.")]
    async with collection(kafka.bootstrap, space=ENCODER.space.name, partitions=2) as kit:
        rounds = Rounds(kit, tmp_path, s3, await s3.new_bucket(), seed())
        await rounds.run(len(points), points)
        await replayed(kit, tmp_path)


# Every step has a bound of its own; on a loaded machine a round took up to 70 s.
@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_rounds_of_kills_while_the_broker_is_killed_too(
    own_kafka, own_s3: S3Server, tmp_path: Path
) -> None:
    """A node is killed at each of its points; tests/soak/kill_rounds.py runs 200 rounds."""
    broker, s3 = await own_kafka(), own_s3
    async with collection(broker.bootstrap, space=ENCODER.space.name, partitions=2) as kit:
        rounds = Rounds(kit, tmp_path, s3, await s3.new_bucket(), seed(), broker)
        await rounds.run(len(NODE_POINTS), NODE_POINTS)
        await replayed(kit, tmp_path)


async def replayed(kit: Collection, folder: Path) -> None:
    """Check that a full replay elsewhere, without a snapshot, comes to the same."""
    port = free_port()
    (folder / "fresh").mkdir()
    async with (
        role(folder / "fresh", "index", *of(kit, "--port", str(port))) as fresh,
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        await answering(client, fresh)
        await assert_index_is_the_log(kit, client)
