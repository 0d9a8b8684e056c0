"""Rounds of kill -9 at named points, while the broker and the S3 server of snapshots come and go.

A round publishes changes, runs encoder and node until one of them kills itself, and then compares
what a clean start comes to with a brute-force reading of the log: items, vectors and digests.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from contracts.events.content_event import content_record, delete_record
from contracts.events.embedding_record import Embedding, read_embedding
from contracts.fault_points import POINTS
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS
from index_store import digest
from streams.devbroker.broker import LocalBroker
from tests.kits.kafka import Collection, caption
from tests.kits.roles import PATIENCE_S, Role, answering, free_port, of, role
from tests.kits.s3_fixture import S3Link, S3Server
from tidelens.client import Client

ENCODER = HashEncoder()
# Small limits, so that every point is reached in seconds.
OFTEN = {
    "TIDELENS_SNAPSHOT_EVERY_S": "1",
    "TIDELENS_SCANNED_ROWS_MAX": "20",
    "TIDELENS_ENCODE_BATCH_CAPTIONS": "40",
    "TIDELENS_ENCODE_BATCH_PICTURES": "40",
}
# A point's second pass may need two rebuilds, which run at nice 19.
_DEATH_S = 180
# Those that a role comes to again and again; an operator's command is killed in
# tests/integration/test_rebuild.py, and who takes partitions over in tests/faults/encoder_storm.py.
ENCODER_POINTS = sorted(point for point in POINTS if point.startswith("encode."))
NODE_POINTS = sorted(
    point for point in POINTS if point.startswith(("index.", "rebuild.", "snapshot."))
)


@dataclass
class Rounds:
    """One collection through many rounds; everything random comes from `dice`."""

    kit: Collection
    folder: Path
    s3: S3Server | S3Link
    bucket: str
    dice: random.Random
    # None: a broker that other tests use too, which lives on.
    broker: LocalBroker | None = None
    done: Counter[str] = field(default_factory=Counter)
    s3_away: int = 0
    broker_killed: int = 0

    async def run(self, count: int, among: Sequence[str]) -> None:
        """Run `count` rounds, each with a kill at the next of the points, in random order."""
        points: list[str] = []
        for number in range(count):
            points = points or self.dice.sample(among, len(among))
            point = points.pop()
            fault = f"{point}:{self.dice.randint(1, 2)}"
            s3 = self.dice.random() < 0.3 and point.startswith(("index.", "rebuild."))
            broker = self.broker is not None and self.dice.random() < 0.2
            told = f"{', S3 away' if s3 else ''}{', broker killed' if broker else ''}"
            print(f"round {number}: {fault}{told}", flush=True)
            await self._round(fault, s3=s3, broker=broker)
            self.done[point] += 1
            self.s3_away += s3
            self.broker_killed += broker

    async def _round(self, fault: str, *, s3: bool, broker: bool) -> None:
        encoding, groups = fault.startswith("encode."), [self.kit.names.encoder_group]
        async with AsyncExitStack() as stack:
            dying = await stack.enter_async_context(self._encoder(fault if encoding else ""))
            if not encoding:
                dying = await stack.enter_async_context(self._node(free_port(), fault))
                groups.append(self.kit.names.index_group("0", "0"))
            if broker and self.broker is not None:
                await self._until_it_works(dying, groups)
                await self.broker.kill()
                await self.broker.start()
            if s3:
                await self._until_dead(dying, seconds=4)
                await self.s3.stop()
            try:
                await self._until_dead(dying)
            finally:
                if s3:
                    await self.s3.start()
            if encoding:
                await stack.enter_async_context(self._encoder())
            await churn(self.kit, self.dice, 60)
            await all_encoded(self.kit)
            await self._compare()

    async def _until_it_works(self, process: Role, groups: Sequence[str]) -> None:
        """Publish until every group commits or the process dies: a start without a broker ends."""
        before = [await self.kit.log.committed(group) for group in groups]
        async with asyncio.timeout(_DEATH_S):
            while process.process.returncode is None:
                await churn(self.kit, self.dice, 20)
                await asyncio.sleep(0.2)
                now = [await self.kit.log.committed(group) for group in groups]
                if all(one != other for one, other in zip(now, before, strict=True)):
                    return

    async def _until_dead(self, process: Role, seconds: float | None = None) -> None:
        """Publish until the process dies, for `seconds` at most if they are given."""
        try:
            async with asyncio.timeout(seconds or _DEATH_S):
                while process.process.returncode is None:
                    await churn(self.kit, self.dice, 20)
                    await asyncio.sleep(0.2)
        except TimeoutError:
            assert seconds, f"did not die:\n{process.log.read_text()[-3000:]}"
            return
        assert await process.ended() == -9, process.log.read_text()[-3000:]

    async def _compare(self) -> None:
        port = free_port()
        async with (
            self._node(port) as node,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, node)
            await assert_index_is_the_log(self.kit, client)
        # What a kill leaves is whole or not published, so nothing has to be refused.
        assert "snapshot refused" not in node.log.read_text(), node.log.read_text()[-3000:]

    def _encoder(self, fault: str = ""):  # type: ignore[no-untyped-def]
        return role(self.folder, "encode", *of(self.kit), fault=fault, **OFTEN)

    def _node(self, port: int, fault: str = ""):  # type: ignore[no-untyped-def]
        arguments = of(self.kit, "--port", str(port), "--snapshots", f"s3://{self.bucket}/soak")
        return role(self.folder, "index", *arguments, fault=fault, **OFTEN)


def seed() -> random.Random:
    number = random.SystemRandom().randrange(2**32)
    print(f"seed {number}")
    return random.Random(number)


async def churn(kit: Collection, dice: random.Random, count: int) -> None:
    """Publish puts, updates and deletes of few ids."""
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
    async with asyncio.timeout(PATIENCE_S):
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


async def assert_index_is_the_log(kit: Collection, client: Client) -> None:
    """Require that items, sources, vectors and digests equal those of the log."""
    truth = await kit.truth(ENCODER)
    query = {"text": "text", "target": "captions", "k": 1000, "include": ["vector"]}
    hits = (await client.search(query))["hits"]
    assert {hit["id"] for hit in hits} == {item for _, item in truth}
    for hit in hits:
        expected = truth["captions", hit["id"]]
        assert expected.vector is not None
        assert hit["source"]["offset"] == expected.source.offset
        assert hit["vector"] == [float(number) for number in expected.vector]
    found = (await client.get("/v1/status"))["digests"]
    assert {(d["topic"], d["partition"]): d["digest"] for d in found} == await digests(kit)


async def digests(kit: Collection) -> dict[tuple[str, int], str]:
    """Compute the digest of each embeddings partition from its records alone."""
    found = {}
    for target in TARGETS:
        topic = kit.names.embeddings(target)
        for partition, records in (await kit.read_all(topic)).items():
            live: dict[str, Embedding] = {}
            for record in records:
                embedding = read_embedding(ENCODER.space, record)
                live.pop(embedding.id, None)
                if embedding.vector is not None:
                    live[embedding.id] = embedding
            hashes = [
                digest.item_hash(
                    target,
                    one.id,
                    (one.source.topic_id, one.source.partition, one.source.offset),
                    b"" if one.vector is None else one.vector.tobytes(),
                    one.item,
                    one.text,
                    digest.canonical_metadata(one.metadata) if one.metadata else None,
                )
                for one in live.values()
            ]
            total = (
                digest.add_digests(0, digest.sum_of_hashes(digest.stack_hashes(hashes)))
                if hashes
                else 0
            )
            found[topic, partition] = digest.digest_text(total)
    return found
