"""Memory of an encoder over 100,000 mixed records, including those that it refuses.

    python -m benchmarks.encode_memory [--quick] [--json FILE]

A tiny CLIP, so that everything but the model is what counts: photos of many sizes, captions,
updates, deletions, broken and oversized pictures, malformed envelopes. Resident memory of the
worker and of its decoders is read ten times a second; the last third is held to the middle one.
"""

import asyncio
import contextlib
import io
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import vit_b32
from benchmarks.encoding import PARTITIONS, Worker, encoder, topics
from benchmarks.report import Goal, finish, parser
from consumers.models import model_space
from contracts.events.content_event import Content, content_record
from contracts.events.record import OutRecord, TopicPartition
from contracts.topics import TARGETS, Names
from streams.devbroker.broker import LocalBroker
from streams.kafka.event_log import KafkaEventLog

# Unlike the others never superseded, and in every partition: when these are encoded, all are.
LAST, _LAST = 64, "last/"
# Of the records; the rest are captions.
PICTURES, BROKEN, DELETED = 0.35, 0.05, 0.05


def main() -> None:
    given = parser("encode_memory", "An encoder's memory over mixed records.").parse_args()
    count = 10_000 if given.quick else 100_000
    with tempfile.TemporaryDirectory(prefix="tidelens-bench-") as folder:
        model = vit_b32.make(Path(folder) / "tiny", layers=2, width=64)
        rows, goals = asyncio.run(measure(model, Path(folder), count))
    finish("encode_memory", rows, goals, given.json)


async def measure(model: Path, folder: Path, count: int) -> tuple[list[dict[str, Any]], list[Goal]]:
    broker = LocalBroker(folder / "kafka")
    await broker.start()
    try:
        async with (
            topics(broker.bootstrap, model_space(str(model)).name) as (log, names),
            encoder(broker.bootstrap, model, "float32", quiet=True) as worker,
        ):
            watching = asyncio.create_task(_watched(worker))
            began = time.perf_counter()
            rejected = await _through(log, names, count)
            seconds = time.perf_counter() - began
            watching.cancel()
            samples = await watching
    finally:
        await broker.stop()
    thirds = {
        name: np.array_split(np.array([sample[name] for sample in samples]) / 2**20, 3)
        for name in ("worker", "decoders", "all")
    }
    rows = [
        {
            "what": f"{name}, MiB",
            **{f"third {n + 1}": float(part.mean()) for n, part in enumerate(parts)},
            "most": float(max(part.max() for part in parts)),
            "series": np.concatenate(parts)[:: max(1, len(samples) // 200)].tolist(),
        }
        for name, parts in thirds.items()
    ]
    rows.append({"what": "records", "per_s": count / seconds, "count": count})
    rows.append({"what": "of them dead letters", "count": rejected})
    last, middle = (float(thirds["all"][n].mean()) for n in (2, 1))
    return rows, [Goal("last third of the middle third", last / middle, 1.03, "lower")]


async def _watched(worker: Worker) -> list[dict[str, int]]:
    """Take samples of the memory, in bytes by role, until cancelled."""
    samples = []
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            memory = await asyncio.to_thread(worker.memory_bytes)
            samples.append({**memory, "all": sum(memory.values())})
            await asyncio.sleep(0.1)
    return samples


async def _through(log: KafkaEventLog, names: Names, count: int) -> int:
    """Publish, and wait for all to be answered; how many were refused."""
    outputs = [
        TopicPartition(topic, n)
        for topic in (names.embeddings("images"), names.embeddings("captions"))
        for n in range(PARTITIONS)
    ]
    reader = await log.tail(await log.end_offsets(outputs))
    awaited = {f"{_LAST}{n}".encode() for n in range(LAST)}
    seen = {target: set(awaited) for target in TARGETS}
    try:
        publishing = asyncio.create_task(_publish(log, names, count))
        while any(seen.values()):
            fetched = await reader.fetch(records_max=5_000, timeout_ms=200)
            for partition, records in fetched.records.items():
                target = names.target_of(partition.topic)
                assert target is not None
                seen[target] -= {record.key for record in records if record.key is not None}
            if publishing.done():
                publishing.result()
        return await publishing
    finally:
        await reader.close()


async def _publish(log: KafkaEventLog, names: Names, count: int) -> int:
    records, refused = _records(names, count), 0
    while True:
        chunk = []
        for record, bad in records:
            chunk.append(record)
            refused += bad
            if len(chunk) == 200:
                break
        if not chunk:
            return refused
        await log.publish(chunk)


def _records(names: Names, count: int) -> Iterator[tuple[OutRecord, bool]]:
    """Each with whether it is to be refused."""
    dice = random.Random(1)
    photos = [*vit_b32.jpegs(), *_drawn()]
    texts = vit_b32.captions(count)
    bad = [b"no picture", photos[0][:2000], b"", _png(9_000, 9_000)]
    for n in range(count - 2 * LAST):
        lot = dice.random()
        some_id = f"i{dice.randrange(count // 2)}"
        if lot < PICTURES:
            image = dice.choice(photos) + f" {n}".encode()
            yield _record(names, Content(target="images", id=some_id, image=image)), False
        elif lot < PICTURES + BROKEN / 2:
            image = dice.choice(bad) + f" {n}".encode()
            yield _record(names, Content(target="images", id=some_id, image=image)), True
        elif lot < PICTURES + BROKEN:
            malformed = dice.randbytes(dice.randrange(1, 3_000))
            record = _record(names, Content(target="captions", id=some_id, text="a"))
            yield OutRecord(record.topic, record.key, malformed, record.headers), True
        elif lot < PICTURES + BROKEN + DELETED:
            record = _record(names, Content(target="captions", id=some_id, text="a"))
            yield OutRecord(record.topic, record.key, None, ()), False
        else:
            text = texts[n].text
            yield _record(names, Content(target="captions", id=some_id, text=text)), False
    for n in range(LAST):
        last = f"{_LAST}{n}"
        yield _record(names, Content(target="captions", id=last, text=last)), False
        image = photos[0] + last.encode()
        yield _record(names, Content(target="images", id=last, image=image)), False


def _record(names: Names, content: Content) -> OutRecord:
    return content_record(names.content(content.target), content)


def _drawn() -> list[bytes]:
    """Make pictures in PNG, WebP and GIF, of sizes from an icon to a poster."""
    made = []
    for n, (kind, side) in enumerate(
        (kind, side) for kind in ("PNG", "WEBP", "GIF") for side in (32, 300, 1200)
    ):
        colours = np.random.default_rng(n).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colours).resize((side, side)).save(buffer, kind)
        made.append(buffer.getvalue())
    return made


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
