"""The whole way: published -> encoded -> searchable -> pushed, with the starter model.

    python -m benchmarks.pipeline [--quick] [--json FILE]

20,000 captions and 500 pictures (--quick: 2,000 and 100) through a whole `tidelens up`, beside the
bare encoder and a bare aiokafka read of the same topic in the same run. Then single captions at
light load, each watched from its publishing to its arrival on a live socket, and the idle system.
"""

import asyncio
import io
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from PIL import Image, ImageDraw

from benchmarks.report import Goal, finish, parser
from benchmarks.system import System, system
from contracts.events.content_event import Content, content_record
from contracts.partitioner import partitioner
from contracts.settings import KafkaSettings
from contracts.topics import TARGETS, Names, Target
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog

_VOCABULARY = (
    "a red blue green small large dog cat horse bicycle train boat child woman man running sitting "
    "jumping beach street mountain river house garden snow rain night morning with near under over"
)
WORDS = _VOCABULARY.split()
LIGHT_SAMPLES = 60
IDLE_S = 20


def captions(count: int) -> list[Content]:
    """Return distinct captions of 6 to 14 words, the lengths of COCO's."""
    dice = random.Random(1)
    return [
        Content(
            target="captions",
            id=f"bench/{n}",
            text=" ".join(dice.choices(WORDS, k=dice.randint(6, 14))) + f" {n}",
        )
        for n in range(count)
    ]


def pictures(count: int) -> list[Content]:
    """Return distinct JPEGs of 640 x 480."""
    dice = random.Random(2)
    made = []
    for n in range(count):
        image = Image.new("RGB", (640, 480), tuple(dice.randrange(256) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        for _ in range(12):
            x, y = dice.randrange(640), dice.randrange(480)
            colour = tuple(dice.randrange(256) for _ in range(3))
            draw.ellipse((x, y, x + dice.randrange(200), y + dice.randrange(200)), fill=colour)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        made.append(Content(target="images", id=f"bench/{n}", image=buffer.getvalue()))
    return made


async def until_searchable(running: System, target: Target, count: int) -> None:
    while (await running.client.get("/v1/status"))["items"][target] < count:
        await asyncio.sleep(0.1)


async def bulk(
    running: System, log: KafkaEventLog, names: Names, contents: Sequence[Content]
) -> float:
    """Return the items per second from the first publication to the last searchable item."""
    target = contents[0].target
    before = (await running.client.get("/v1/status"))["items"][target]
    began = time.monotonic()
    for start in range(0, len(contents), 500):
        batch = contents[start : start + 500]
        await log.publish([content_record(names.content(target), item) for item in batch])
    await until_searchable(running, target, before + len(contents))
    return len(contents) / (time.monotonic() - began)


async def bare_read(brokers: str, topic: str, partitions: int) -> float:
    """Return the records per second of a plain aiokafka loop over the whole topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, isolation_level="read_committed")
    await consumer.start()
    try:
        assigned = [TopicPartition(topic, n) for n in range(partitions)]
        consumer.assign(assigned)
        await consumer.seek_to_beginning(*assigned)
        ends = await consumer.end_offsets(assigned)
        count, began = 0, time.monotonic()
        while any([await consumer.position(tp) < ends[tp] for tp in assigned]):
            found = await consumer.getmany(timeout_ms=100)
            count += sum(len(records) for records in found.values())
        return count / (time.monotonic() - began)
    finally:
        await consumer.stop()


def bare_encoder(contents: Sequence[Content]) -> float:
    """Return the items per second of the model alone in this process, decoding included."""
    from consumers.images.decode import decode_image
    from consumers.models import open_encoder

    encoder = open_encoder("starter", threads=2)
    began = time.monotonic()
    for start in range(0, len(contents), 256):
        batch = contents[start : start + 256]
        if batch[0].text is not None:
            encoder.encode_texts([item.text for item in batch if item.text is not None])
            continue
        decoded = [
            encoder.preprocess(
                decode_image(
                    item.image or b"",
                    bytes_max=10**8,
                    pixels_max=10**8,
                    side_hint=encoder.preprocess.side,
                )
            )
            for item in batch
        ]
        encoder.encode_images(decoded)
    return len(contents) / (time.monotonic() - began)


async def light(
    running: System, log: KafkaEventLog, names: Names
) -> tuple[list[float], list[float]]:
    """Return the seconds from publishing captions until they are searchable, and pushed."""
    searchable, pushed = [], []
    arrived: dict[str, asyncio.Future[float]] = {}

    async def watch() -> None:
        query = {"text": "a purple submarine", "target": "captions", "k": 1000}
        async for update in running.client.watch(query):
            for change in update.changes:
                future = arrived.get(change["id"])
                if future is not None and not future.done():
                    future.set_result(time.monotonic())
            if not opened.done():
                opened.set_result(None)

    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(watch())
    await opened
    for n in range(LIGHT_SAMPLES):
        item = Content(target="captions", id=f"light/{n}", text=f"a purple submarine {n}")
        arrived[item.id] = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        [position] = await log.publish([content_record(names.content("captions"), item)])
        token = position._asdict()
        await running.client.search(
            {"text": "a purple submarine", "target": "captions", "wait_for": token, "k": 1}
        )
        searchable.append(time.monotonic() - began)
        async with asyncio.timeout(20):
            pushed.append(await arrived[item.id] - began)
        await asyncio.sleep(0.2)
    watching.cancel()
    return searchable, pushed


async def idle(running: System) -> float:
    """Share of one core that the whole system takes with nothing to do."""
    await asyncio.sleep(5)
    began, before = time.monotonic(), running.cpu_seconds()
    await asyncio.sleep(IDLE_S)
    return (running.cpu_seconds() - before) / (time.monotonic() - began)


def latency_row(stage: str, seconds: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    return {
        "stage": stage,
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
    }


async def measure(text_count: int, image_count: int) -> tuple[list[dict[str, Any]], list[Goal]]:
    texts, images = captions(text_count), pictures(image_count)
    rows: list[dict[str, Any]] = []
    async with system() as running:
        names = Names("tidelens.", running.space)
        connection = KafkaConnection(running.brokers, KafkaSettings())
        async with KafkaEventLog.open(
            connection, partition_of=partitioner("murmur2"), record_bytes_max=4 * 2**20
        ) as log:
            share = await idle(running)
            searchable, pushed = await light(running, log, names)
            rows += [
                latency_row("light: produced -> searchable", searchable),
                latency_row("light: produced -> pushed", pushed),
            ]
            for contents in (images, texts):
                rate = await bulk(running, log, names, contents)
                rows.append({"stage": f"bulk {contents[0].target}: whole", "items_per_s": rate})
            for target in TARGETS:
                topic = names.embeddings(target)
                counts = await log.partition_counts([topic])
                rate = await bare_read(running.brokers, topic, counts[topic])
                rows.append({"stage": f"bare aiokafka read, {target}", "items_per_s": rate})
            memory = running.memory_mib()
        ready_s = running.ready_s
    # Alone on the machine, as the bound that it is.
    for contents in (images, texts):
        rate = bare_encoder(contents[:2000])
        rows.append({"stage": f"bare encoder, {contents[0].target}", "items_per_s": rate})
    rows += [{"stage": f"memory: {role}", "MiB": mib} for role, mib in memory.items()]
    rows.append({"stage": "start to first answer", "seconds": ready_s})
    rows.append({"stage": "idle, share of one core", "share": share})
    return rows, [
        Goal("produced -> pushed p99 at light load, s", rows[1]["p99_ms"] / 1000, 1.0, "lower"),
        Goal("first searchable result after start, s", ready_s, 30.0, "lower"),
        Goal("idle system, share of one core", share, 0.10, "lower"),
    ]


def main() -> None:
    given = parser("pipeline", "The whole way, with the starter model.").parse_args()
    rows, goals = asyncio.run(measure(*((2000, 100) if given.quick else (20_000, 500))))
    finish("pipeline", rows, goals, given.json)


if __name__ == "__main__":
    main()
