"""Events a second from Kafka into a searchable index, against a plain loop.

    python -m benchmarks.replay [--quick] [--json FILE]

One broker, one log of embeddings with text and metadata, a tenth of them repeats of ids. It is
replayed by a maintainer (fold, digests, views, deletes) until that answers, and by a loop that
reads, decodes id, source and metadata, keeps an id -> row dict and adds to Faiss. Each runs in a
process of its own, in turns; the median counts.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson
import psutil
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import NewTopic

from benchmarks import clip_like
from benchmarks.filled import DIM, NAMES, SPACE
from benchmarks.report import Goal, finish, parser
from contracts.events.embedding_record import encode_embedding
from contracts.events.record import OutRecord, Source
from contracts.metrics import Metrics
from contracts.partitioner import partitioner
from contracts.ports.hit import VectorQuery
from contracts.score import unit
from contracts.settings import KafkaSettings, Settings
from contracts.supervision.children import module_command
from contracts.topics import TARGETS
from index_store.search.searcher import AppliedFeed, LocalSearcher
from index_store.storage.local import LocalBlobStore
from streams.devbroker.broker import LocalBroker
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from tidelens.process.clock import SystemClock
from tidelens.runtime.maintainer import make_maintainer

_PARTITIONS = 4
_REPEATED_SHARE = 0.1
_ROUNDS = 3
_HEAD_BYTES = 16


async def fill(connection: KafkaConnection, log: KafkaEventLog, count: int) -> None:
    """Publish `count` embeddings of pictures, and nothing in the other topic."""
    async with connection.admin() as admin:
        await admin.create_topics(
            [
                NewTopic(NAMES.embeddings("images"), _PARTITIONS, 1),
                NewTopic(NAMES.embeddings("captions"), 1, 1),
            ]
        )
    images, _ = clip_like.load()
    dice, n = np.random.default_rng(2), 0
    for block in clip_like.widened(images, count):
        records = []
        for vector in block:
            repeats = n and dice.random() < _REPEATED_SHARE
            key = f"picture-{int(dice.integers(n)) if repeats else n}".encode()
            value = encode_embedding(
                SPACE,
                vector,
                text=f"a picture with the number {n}",
                metadata={"camera": f"c{n % 50}", "taken": n, "public": n % 2 == 0},
            )
            headers = [("source", Source("content", 0, n).encode()), ("appended", b"1")]
            records.append(OutRecord(NAMES.embeddings("images"), key, value, headers))
            n += 1
        await log.publish(records)


async def maintained(connection: KafkaConnection, log: KafkaEventLog, settings: Settings) -> int:
    """Replay into Tidelens from an empty state until it answers (invariant 8); return the items."""
    searcher = LocalSearcher()
    clock = SystemClock()
    store = LocalBlobStore(settings.data / "snapshots")
    metrics = Metrics()
    maintainer = make_maintainer(
        settings, log, SPACE, "bench", store, searcher, AppliedFeed(), metrics, clock
    )
    running = asyncio.create_task(maintainer.run())
    while not searcher.is_ready:
        if running.done():
            running.result()
        await asyncio.sleep(0.02)
    _, texts = clip_like.load()
    await searcher.search([VectorQuery("images", unit(texts[0]))])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return searcher.count("images")


async def plain(connection: KafkaConnection) -> int:
    """Replay by a script that has no deletes, offsets, digests or concurrent readers."""
    consumer = AIOKafkaConsumer(
        **connection.client_options(),
        isolation_level="read_committed",
        fetch_max_bytes=16 * 1024 * 1024,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    await consumer.start()
    assigned = [KafkaPartition(NAMES.embeddings("images"), n) for n in range(_PARTITIONS)]
    consumer.assign(assigned)
    await consumer.seek_to_beginning(*assigned)
    ends = await consumer.end_offsets(assigned)
    rows: dict[str, int] = {}
    kept: list[tuple[Source, Any]] = []
    index = faiss.IndexScalarQuantizer(
        DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    while any([await consumer.position(tp) < ends[tp] for tp in assigned]):
        found = await consumer.getmany(timeout_ms=200, max_records=2048)
        vectors = []
        for records in found.values():
            for record in records:
                source = Source.decode(dict(record.headers)["source"])
                vectors.append(np.frombuffer(record.value, "<f2", DIM, _HEAD_BYTES))
                body = orjson.loads(record.value[_HEAD_BYTES + 2 * DIM :])
                rows[record.key.decode()] = len(kept)
                kept.append((source, body))
        if vectors:
            index.add(np.stack(vectors).astype(np.float32))
    _, texts = clip_like.load()
    index.search(unit(texts[:1]).astype(np.float32), 10)
    await consumer.stop()
    return len(rows)


async def once(system: str, brokers: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(brokers=brokers, data=Path(folder), topic_prefix="bench.")
        connection = KafkaConnection(brokers, KafkaSettings())
        before = psutil.Process().memory_info().rss
        began = time.perf_counter()
        if system == "plain":
            items = await plain(connection)
        else:
            async with opened(connection) as log:
                items = await maintained(connection, log, settings)
        seconds = time.perf_counter() - began
        memory = (psutil.Process().memory_info().rss - before) / 1e6
        return {"items": items, "seconds": seconds, "memory_MB": memory}


def opened(connection: KafkaConnection) -> Any:
    return KafkaEventLog.open(
        connection, partition_of=partitioner("murmur2"), record_bytes_max=4 * 1024 * 1024
    )


async def measure(count: int) -> list[dict[str, Any]]:
    assert set(TARGETS) == {"images", "captions"}
    with tempfile.TemporaryDirectory() as folder:
        broker = LocalBroker(Path(folder))
        brokers = await broker.start()
        try:
            connection = KafkaConnection(brokers, KafkaSettings())
            async with opened(connection) as log:
                await fill(connection, log, count)
            found: dict[str, list[dict[str, Any]]] = {"plain": [], "tidelens": []}
            for _ in range(_ROUNDS):
                for system, runs in found.items():
                    command = module_command("benchmarks.replay", "--once", system, brokers)
                    out = await asyncio.to_thread(
                        subprocess.run, command, stdout=subprocess.PIPE, check=True
                    )
                    runs.append(json.loads(out.stdout.splitlines()[-1]))
        finally:
            await broker.stop()
    for runs in found.values():
        if runs[0]["items"] != found["plain"][0]["items"]:
            raise RuntimeError(f"not the same items: {found}")
    return [
        {
            "system": system,
            "events": count,
            "items": runs[0]["items"],
            "events_per_s": count / statistics.median(run["seconds"] for run in runs),
            "slowest": count / max(run["seconds"] for run in runs),
            "fastest": count / min(run["seconds"] for run in runs),
            "memory_MB": statistics.median(run["memory_MB"] for run in runs),
        }
        for system, runs in found.items()
    ]


def main() -> None:
    made: argparse.ArgumentParser = parser("replay", __doc__ or "")
    made.add_argument("--events", type=int)
    made.add_argument("--once", nargs=2, metavar=("SYSTEM", "BROKERS"), help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.once:
        print(json.dumps(asyncio.run(once(*arguments.once))))
        return
    table = asyncio.run(measure(arguments.events or (50_000 if arguments.quick else 300_000)))
    ratio = table[1]["events_per_s"] / table[0]["events_per_s"]
    goals = [Goal("events/s / plain loop", ratio, 0.7, "higher")]
    finish("replay", table, goals, arguments.json)


if __name__ == "__main__":
    main()
