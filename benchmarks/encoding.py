"""A broker's topics and an encoder of its own beside them, for benchmarks of the encoder alone."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.system import free_port
from contracts.events.content_event import Content, content_record
from contracts.partitioner import partitioner
from contracts.settings import KafkaSettings
from contracts.supervision.children import module_command
from contracts.topics import Names, topic_specs
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from streams.topics.admin import create_topics

PARTITIONS = 4
RECORD_BYTES_MAX = 4 * 2**20


@asynccontextmanager
async def topics(
    brokers: str, space: str, prefix: str = "tidelens."
) -> AsyncIterator[tuple[KafkaEventLog, Names]]:
    connection, names = KafkaConnection(brokers, KafkaSettings()), Names(prefix, space)
    specs = topic_specs(names, partitions=PARTITIONS, content_bytes_max=RECORD_BYTES_MAX)
    await create_topics(connection, specs, replication_factor=1, min_insync_replicas=1)
    partition_of = partitioner("murmur2")
    async with KafkaEventLog.open(
        connection, partition_of=partition_of, record_bytes_max=RECORD_BYTES_MAX
    ) as log:
        yield log, names


@dataclass(frozen=True, slots=True)
class Worker:
    """A running `tidelens encode`."""

    process: psutil.Process
    metrics_port: int

    def memory_bytes(self) -> dict[str, int]:
        """Return the resident bytes of the process itself and of its decoders."""
        found = {"worker": 0, "decoders": 0}
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                role = "worker" if process == self.process else "decoders"
                found[role] += process.memory_info().rss
        return found

    async def sums(self) -> dict[str, float]:
        """Return every sample of /metrics, summed over its labels."""
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{self.metrics_port}/metrics")
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0) + sample.value
        return found


@asynccontextmanager
async def encoder(
    brokers: str,
    model: str | Path,
    precision: str = "auto",
    *,
    quiet: bool = False,
    prefix: str = "tidelens.",
    module: str = "tidelens",
) -> AsyncIterator[Worker]:
    """Run an encoder. With `quiet` it writes no line for each record that it refuses."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *module_command(module, "encode", "--brokers", brokers, "--model", str(model)),
        *("--precision", precision, "--topic-prefix", prefix),
        env={
            **os.environ,
            "TIDELENS_ENCODE_METRICS_PORT": str(port),
            "TIDELENS_LOG_FORMAT": "json",
        },
        stderr=asyncio.subprocess.DEVNULL if quiet else None,
    )
    try:
        yield Worker(psutil.Process(process.pid), port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def publish(log: KafkaEventLog, names: Names, contents: Sequence[Content]) -> None:
    topic = names.content(contents[0].target)
    for start in range(0, len(contents), 200):
        await log.publish([content_record(topic, c) for c in contents[start : start + 200]])
