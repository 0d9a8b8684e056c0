"""A content topic, then an embeddings topic, is deleted and created again under a running `up`.

The encoder stands still while the content topic is made again and filled beyond its old offset. All
new items are found and none of the old ones. After the embeddings topic was made again, the index
is filled again.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

import orjson

from contracts.events.content_event import Content, content_record
from contracts.partitioner import partitioner
from contracts.settings import KafkaSettings
from contracts.topics import Names, topic_specs
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from streams.topics.admin import read_topics
from streams.topics.creation import create_collection_topics
from tests.kits.roles import answering, free_port
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_NAMES = Names("tidelens.", "hash-v1")
_RECORD_BYTES_MAX = 1024 * 1024


async def run(ground: Ground) -> Outcome:
    broker = await ground.broker()
    port = free_port()
    connection = KafkaConnection(broker.bootstrap, KafkaSettings())
    node = await ground.role(
        "up", "--brokers", broker.bootstrap, "--port", str(port), TIDELENS_PARTITIONS="1"
    )
    async with (
        Client(f"http://127.0.0.1:{port}") as client,
        KafkaEventLog.open(
            connection,
            partition_of=partitioner("murmur2"),
            record_bytes_max=_RECORD_BYTES_MAX,
            prefix=_NAMES.prefix,
        ) as event_log,
    ):
        await answering(client, node)
        await _publish(event_log, "old", 200)
        await _shows(client, "old", 200)
        encoder = await asyncio.to_thread(_encoder, ground.folder / "data")
        os.kill(encoder, signal.SIGSTOP)
        await _make_again(connection, _NAMES.content("captions"))
        await _publish(event_log, "new", 600)
        os.kill(encoder, signal.SIGCONT)
        content_s = await _shows(client, "new", 600)
        await _make_again(connection, _NAMES.embeddings("captions"))
        # The index answers from what it has until it sees the new topic.
        await _begins_again(client)
        embeddings_s = await _shows(client, "new", 600)
    log = await asyncio.to_thread(node.log.read_text)
    reported = [
        f"log: {line}"
        for line in ("encoding from the beginning", "rebuilding the index from the log")
        if line in log
    ]
    reported.append(f"content healed after {content_s:.1f} s, embeddings {embeddings_s:.1f} s")
    return Outcome(reported, max(content_s, embeddings_s), 0)


def _encoder(data: Path) -> int:
    pid: int = orjson.loads((data / "run.json").read_bytes())["children"]["encode hash"]
    return pid


async def _publish(event_log: KafkaEventLog, kind: str, count: int) -> None:
    topic = _NAMES.content("captions")
    await event_log.publish(
        [
            content_record(topic, Content(target="captions", id=f"{kind}-{n}", text=f"number {n}"))
            for n in range(count)
        ]
    )


async def _make_again(connection: KafkaConnection, topic: str) -> None:
    async with asyncio.timeout(60):
        async with connection.admin() as admin:
            await admin.delete_topics([topic])
        while await read_topics(connection, [topic]):
            await asyncio.sleep(0.1)
    await create_collection_topics(
        connection,
        _NAMES,
        topic_specs(_NAMES, partitions=1, content_bytes_max=_RECORD_BYTES_MAX),
        replication_factor=1,
        min_insync_replicas=1,
    )


async def _shows(client: Client, kind: str, count: int) -> float:
    """Wait until the node has just these, and return after how many seconds it had."""
    began = time.monotonic()
    async with asyncio.timeout(120):
        while True:
            status = await client.get("/v1/status")
            if status["ready"] and status["items"]["captions"] == count:
                break
            await asyncio.sleep(0.2)
    answer = await client.search({"text": "number", "target": "captions", "k": 1000})
    ids = {hit["id"] for hit in answer["hits"]}
    assert ids == {f"{kind}-{n}" for n in range(count)}, sorted(ids)[:5]
    return time.monotonic() - began


async def _begins_again(client: Client) -> None:
    epoch = (await client.get("/v1/status"))["as_of"]["epoch"]
    async with asyncio.timeout(60):
        while True:
            as_of = (await client.get("/v1/status"))["as_of"]
            if as_of is not None and as_of["epoch"] != epoch:
                return
            await asyncio.sleep(0.1)
