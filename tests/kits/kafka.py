"""Helpers that the Kafka tests share: topics of their own on one broker, a brute-force reader."""

import asyncio
import gc
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.conn import AIOKafkaConnection

from consumers.encode_job import RecordChecks
from consumers.images.decode import decode_image
from consumers.labelling import Labeller
from consumers.picture_fetch import PictureLoader
from consumers.references import References, read_reference
from consumers.references.files import allowed_path
from consumers.worker import EncoderWorker
from consumers.worker_limits import WorkerLimits
from contracts.events.content_event import Content
from contracts.events.dead_letter import letter_bytes_max
from contracts.events.embedding_record import Embedding, read_embedding
from contracts.events.record import OutRecord, Record, TopicPartition
from contracts.metrics import Metrics
from contracts.partitioner import partitioner
from contracts.ports.encoder import Encoder, RgbImage
from contracts.ports.ownership import Ownership
from contracts.settings import KafkaSettings
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS, Names, Target, TopicSpec, topic_specs
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from streams.kafka.partition_scan import read_existing
from streams.topics.admin import create_topics
from tidelens.process.clock import SystemClock

MURMUR2 = partitioner("murmur2")
RECORD_BYTES_MAX = 4 * 1024 * 1024
LETTER_BYTES_MAX = letter_bytes_max(RECORD_BYTES_MAX)


@dataclass(frozen=True)
class Collection:
    """A topic prefix of a test's own, with its topics created."""

    connection: KafkaConnection
    names: Names
    partitions: int
    log: KafkaEventLog

    async def read_all(self, topic: str) -> dict[int, list[Record]]:
        """Return every committed record of a topic, by partition, up to the last stable offset."""
        partitions = [TopicPartition(topic, n) for n in range(self.partitions)]
        found: dict[int, list[Record]] = {n: [] for n in range(self.partitions)}
        async for record in read_existing(self.log, dict.fromkeys(partitions)):
            found[record.partition].append(record)
        return found

    async def truth(self, encoder: HashEncoder) -> dict[tuple[Target, str], Embedding]:
        """Return the live items, by a brute-force reading of the embeddings topics."""
        live: dict[tuple[Target, str], Embedding] = {}
        for target in TARGETS:
            for records in (await self.read_all(self.names.embeddings(target))).values():
                for record in records:
                    embedding = read_embedding(encoder.space, record)
                    if embedding.vector is None:
                        live.pop((target, embedding.id), None)
                    else:
                        live[target, embedding.id] = embedding
        return live


async def expired(
    kit: Collection, topic: str, keys: set[bytes], filler: Callable[[int], OutRecord]
) -> None:
    """Wait until the broker has compacted away all records of `keys`, tombstones too.

    Each `filler` rolls a segment; the cleaner takes a log up again where something was appended.
    """
    async with asyncio.timeout(90):
        for n in itertools.count():
            await kit.log.publish([filler(n)])
            found = await kit.read_all(topic)
            if not keys & {record.key for records in found.values() for record in records}:
                return
            await asyncio.sleep(0.3)


_counter = itertools.count()
# Segments roll at every append that comes 100 ms after the last; cleaned at once, tombstones too.
_EAGER = {
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "min.compaction.lag.ms": "0",
    "delete.retention.ms": "0",
}


@asynccontextmanager
async def collection(
    bootstrap: str,
    *,
    space: str = "hash-v1",
    partitions: int = 4,
    kafka: KafkaSettings | None = None,
    eager_compaction: bool = False,
    retention_ms: int = 86_400_000,
) -> AsyncIterator[Collection]:
    """Create topics under a prefix that no other test uses."""
    connection = KafkaConnection(bootstrap, kafka or KafkaSettings())
    names = Names(f"t{next(_counter)}{uuid.uuid4().hex[:6]}.", space)
    specs = topic_specs(
        names,
        partitions=partitions,
        content_bytes_max=RECORD_BYTES_MAX,
        delete_retention_ms=retention_ms,
    )
    if eager_compaction:
        specs = [TopicSpec(s.name, s.partitions, s.config | _EAGER) for s in specs]
    await create_topics(connection, specs, replication_factor=1, min_insync_replicas=1)
    async with KafkaEventLog.open(
        connection, partition_of=MURMUR2, record_bytes_max=RECORD_BYTES_MAX
    ) as log:
        yield Collection(connection, names, partitions, log)


def caption(item_id: str, text: str, **rest: object) -> Content:
    return Content(target="captions", id=item_id, text=text, **rest)


def intake(
    names: Names, partitions: int, *, letter_bytes_max: int = LETTER_BYTES_MAX
) -> RecordChecks:
    counts = {names.content(target): partitions for target in TARGETS}
    return RecordChecks(names, counts, MURMUR2, letter_bytes_max)


async def decoded(data: bytes) -> RgbImage:
    """Decode a picture in this process; decoding in child processes has tests of its own."""
    return decode_image(data, bytes_max=1_000_000, pixels_max=4_000_000, side_hint=32)


@asynccontextmanager
async def no_reference(
    ref: str, sha256: str | None, group: Hashable = None
) -> AsyncIterator[bytes]:
    yield await asyncio.to_thread(read_reference, ref, sha256, allow_roots=(), bytes_max=1_000_000)


async def none_allowed(ref: str) -> None:
    await asyncio.to_thread(allowed_path, ref, ())


def worker(
    ownership: Ownership,
    names: Names,
    partitions: int,
    *,
    encoder: Encoder | None = None,
    batch_records: int = 64,
    known_max: int = 1000,
    decode: Callable[[bytes], Awaitable[RgbImage]] | None = None,
    metrics: Metrics | None = None,
    labeller: Labeller | None = None,
    references: References | None = None,
) -> EncoderWorker:
    read, require_allowed = (
        (references.read, references.require_allowed)
        if references
        else (no_reference, none_allowed)
    )
    return EncoderWorker(
        ownership,
        encoder or HashEncoder(),
        intake(names, partitions),
        PictureLoader(read, require_allowed, decode or decoded),
        WorkerLimits(
            batch_records,
            batch_records,
            4,
            2**26,
            wait_ms=20,
            known_max=known_max,
            decoding_max=4,
        ),
        metrics or Metrics(),
        SystemClock(),
        labeller=labeller,
    )


def _runs_the_test(task: "asyncio.Task[Any]") -> bool:
    """Return whether a task is the test's own, or one of the plugin that awaits it."""
    code = getattr(task.get_coro(), "cr_code", None)
    is_runner = code is not None and "anyio" in Path(code.co_filename).parts
    return is_runner or task is asyncio.current_task()


async def nothing_open() -> None:
    """Require that no connection of aiokafka is left, once every task that may open one has ended.

    One that is only collected warns, which fails the test.
    """
    while others := [task for task in asyncio.all_tasks() if not _runs_the_test(task)]:
        await asyncio.wait(others)
    gc.collect()
    left = [c for c in gc.get_objects() if type(c) is AIOKafkaConnection and c.connected()]
    assert left == []
