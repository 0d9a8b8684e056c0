"""Compaction forced to run on the real broker: the index stays equal to the log."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contracts.events.embedding_record import encode_embedding
from contracts.events.record import OutRecord, Source
from contracts.metrics import Metrics
from contracts.ports.blob_store import BlobStore
from contracts.settings import Settings
from contracts.testing.blob_store import MemoryBlobStore
from contracts.testing.encoder import HashEncoder
from index_store.search.searcher import AppliedFeed, LocalSearcher
from streams.maintainer.maintainer import Maintainer
from tests.faults.kill_rounds import digests as log_digests
from tests.integration.test_kills import all_encoded, assert_index_is_the_log, churn
from tests.kits.kafka import Collection, collection, expired
from tests.kits.roles import answering, free_port, of, role
from tidelens.client import Client
from tidelens.process.clock import SystemClock
from tidelens.runtime.maintainer import make_maintainer

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(150)]

ENCODER = HashEncoder()


async def embeddings_left(kit: Collection) -> int:
    return sum(map(len, (await kit.read_all(kit.names.embeddings("captions"))).values()))


async def digests(client: Client) -> list[str]:
    return [entry["digest"] for entry in (await client.get("/v1/status"))["digests"]]


async def test_a_replay_after_compaction_comes_to_the_live_state(kafka, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    port = free_port()
    space = ENCODER.space.name
    async with collection(kafka.bootstrap, space=space, partitions=2, eager_compaction=True) as kit:
        arguments = of(kit, "--port", str(port))
        async with (
            role(tmp_path, "encode", *of(kit)),
            role(tmp_path, "index", *arguments) as live,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, live)
            written = 0
            async with asyncio.timeout(60):
                # Until well over half of what was written is gone.
                while written < 400 or await embeddings_left(kit) > written // 2:
                    await churn(kit, dice, 40)
                    written += 40
                    await asyncio.sleep(0.3)
            await all_encoded(kit)
            async with asyncio.timeout(90):
                while (await client.get("/v1/lag"))["behind_s"]:
                    await asyncio.sleep(0.2)
            await assert_index_is_the_log(kit, client)
            before = await digests(client)
            assert await live.stop() == 0
        (tmp_path / "fresh").mkdir()
        async with (
            role(tmp_path / "fresh", "index", *arguments) as fresh,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, fresh)
            await assert_index_is_the_log(kit, client)
            assert await digests(client) == before


def embedded(kit: Collection, item: str, number: int, *, gone: bool = False) -> OutRecord:
    """Create the record of an encoder; `number` is the offset of the content record."""
    headers = [("source", Source("content", 0, number).encode()), ("appended", b"1")]
    vector = ENCODER.encode_texts([f"{item} {number}"])[0]
    value = None if gone else encode_embedding(ENCODER.space, vector)
    return OutRecord(kit.names.embeddings("captions"), item.encode(), value, headers, 0)


@asynccontextmanager
async def node(
    kit: Collection, store: BlobStore, data: Path, kept_s: float
) -> AsyncIterator[Maintainer]:
    """Run an index node that assumes tombstones to be kept for `kept_s`; yield it once ready."""
    settings = Settings(topic_prefix=kit.names.prefix, data=data)
    searcher = LocalSearcher()
    maintainer = make_maintainer(
        settings,
        kit.log,
        ENCODER.space,
        "0",
        store,
        searcher,
        AppliedFeed(),
        Metrics(),
        SystemClock(),
        retention_min_s=kept_s,
    )
    running = asyncio.create_task(maintainer.run())
    try:
        async with asyncio.timeout(30):
            while not searcher.is_ready:
                await asyncio.sleep(0.01)
        yield maintainer
    finally:
        running.cancel()
        await asyncio.wait([running])


def items(maintainer: Maintainer) -> dict[str, int]:
    """Ids with the offsets of their content records."""
    assert maintainer.index is not None
    return {
        rows.ids[n]: int(rows.offsets[n])
        for rows, numbers in maintainer.index.view.rows("captions")
        for n in numbers.tolist()
    }


async def test_a_snapshot_behind_tombstones_that_expired_is_not_gone_on_from(
    kafka, tmp_path: Path
) -> None:
    """No record names what was deleted any more: only a replay excludes it (invariant 7)."""
    store, names = MemoryBlobStore(), [f"item-{n}" for n in range(20)]
    deleted = set(names[::3])
    async with collection(
        kafka.bootstrap, space=ENCODER.space.name, partitions=1, eager_compaction=True
    ) as kit:
        await kit.log.publish([embedded(kit, item, n) for n, item in enumerate(names)])
        async with node(kit, store, tmp_path / "first", 2) as first:
            assert items(first) == {item: n for n, item in enumerate(names)}
            await first.snapshot()
        assert store.blobs
        # An update and a re-creation among them.
        changes = [embedded(kit, item, 30, gone=True) for item in sorted(deleted)]
        changes += [embedded(kit, "item-1", 31), embedded(kit, "item-3", 32)]
        deleted -= {"item-3"}
        await kit.log.publish(changes)
        await expired(
            kit,
            kit.names.embeddings("captions"),
            {item.encode() for item in deleted},
            lambda n: embedded(kit, "last", 100 + n),
        )
        await asyncio.sleep(2.1)
        truth = {item: one.source.offset for (_, item), one in (await kit.truth(ENCODER)).items()}
        assert truth.keys() == ({*names} - deleted) | {"last"}
        # Ready means: past all that was stable at its start (invariant 8).
        async with node(kit, store, tmp_path / "again", 2) as again:
            assert items(again) == truth
            assert again.index is not None and again.index.digests_match()
            found = {(d["topic"], d["partition"]): d["digest"] for d in again.index.digests()}
            assert found == await log_digests(kit)
        # And it had to: a node that assumes longer retention goes on, and never reads the deletes.
        async with node(kit, store, tmp_path / "wrong", 3_600) as wrong:
            assert items(wrong).keys() == truth.keys() | deleted
