"""Time from a record's publication to its committed embedding, and its effect on queries.

    python -m benchmarks.encode_latency [--quick] [--json FILE]

ViT-B/32's shape; pictures and captions arrive by a Poisson process at shares of the rate that the
same worker reaches in the same run. Beside it stands one that writes without transactions, and both
work off the same in turns: what transactions cost. Then a whole Tidelens: searches with texts it
has not seen, on a quiet system and while its encoder works off a backlog of pictures.
"""

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import vit_b32
from benchmarks.encoding import PARTITIONS, RECORD_BYTES_MAX, Worker, encoder, publish, topics
from benchmarks.report import Goal, finish, parser
from benchmarks.system import System, system
from consumers.models import model_space
from contracts.events.content_event import Content, content_record
from contracts.events.record import TopicPartition
from contracts.partitioner import partitioner
from contracts.settings import KafkaSettings
from contracts.topics import Names
from streams.devbroker.broker import LocalBroker
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog

LOADS = (0.1, 0.5, 0.9)
# In turns with a worker without transactions, since the machine is not the same at all times.
ROUNDS = 4
QUERIES_PER_S = 10.0


def main() -> None:
    given = parser("encode_latency", "From publication to the committed embedding.").parse_args()
    seconds = 15.0 if given.quick else 60.0
    with tempfile.TemporaryDirectory(prefix="tidelens-bench-") as folder:
        model = vit_b32.make(Path(folder) / "vit-b-32")
        rows, goals = asyncio.run(measure(model, Path(folder), seconds))
    finish("encode_latency", rows, goals, given.json)


async def measure(
    model: Path, folder: Path, seconds: float
) -> tuple[list[dict[str, Any]], list[Goal]]:
    broker = LocalBroker(folder / "kafka")
    await broker.start()
    try:
        space = model_space(str(model)).name
        async with (
            topics(broker.bootstrap, space) as (log, names),
            encoder(broker.bootstrap, model) as worker,
        ):
            rows, goals = await _encoded(log, names, worker, seconds)
            async with (
                topics(broker.bootstrap, space, "plain.") as (_, plain),
                encoder(broker.bootstrap, model, prefix="plain.", module="benchmarks.untransacted"),
            ):
                costs, goal = await _cost_of_transactions(log, names, plain, rows, seconds)
                rows, goals = [*rows, *costs], [*goals, goal]
    finally:
        await broker.stop()
    async with system("--model", str(model)) as running:
        more_rows, more_goals = await _queried(running, seconds)
    return [*rows, *more_rows], [*goals, *more_goals]


async def _encoded(
    log: KafkaEventLog, names: Names, worker: Worker, seconds: float
) -> tuple[list[dict[str, Any]], list[Goal]]:
    jpegs = vit_b32.jpegs()
    await _arrivals(log, names, vit_b32.pictures(64, jpegs, "warm"), None)
    await _arrivals(log, names, vit_b32.captions(512, "warm"), None)
    before = await worker.sums()
    full_rate = {
        "images": await _rate(log, names, vit_b32.pictures(int(20 * seconds), jpegs, "full")),
        "captions": await _rate(log, names, vit_b32.captions(int(150 * seconds), "full")),
    }
    at_load_ms = _transaction_ms(before, await worker.sums())
    rows: list[dict[str, Any]] = []
    light: dict[str, float] = {}
    for target, load in itertools.product(("images", "captions"), LOADS):
        rate = full_rate[target] * load
        count = int(rate * seconds)
        name = f"{target} {load}"
        contents = (
            vit_b32.pictures(count, jpegs, name)
            if target == "images"
            else vit_b32.captions(count, name)
        )
        before = await worker.sums()
        latencies = await _arrivals(log, names, contents, rate)
        transaction_ms = _transaction_ms(before, await worker.sums())
        if load == LOADS[0]:
            light[target] = transaction_ms
        rows.append(
            {
                "what": f"{target}, committed after",
                "load": load,
                "per_s": rate,
                **_percentiles(latencies),
                "transaction_ms": transaction_ms,
            }
        )
    for target, per_s in full_rate.items():
        what = f"{target}, as fast as it goes"
        rows.append({"what": what, "per_s": per_s, "transaction_ms": at_load_ms})
    return rows, [Goal("transactions at light load, ms", max(light.values()), 100.0, "lower")]


async def _cost_of_transactions(
    log: KafkaEventLog, names: Names, plain: Names, rows: list[dict[str, Any]], seconds: float
) -> tuple[list[dict[str, Any]], Goal]:
    """Compare rates of captions, which have many transactions for the time of encoding them."""
    per_s = next(row["per_s"] for row in rows if row["what"] == "captions, as fast as it goes")
    count = int(per_s * seconds / ROUNDS)
    taken = {"with transactions": 0.0, "without": 0.0}
    for contents in (vit_b32.captions(256, f"warm {n}") for n in range(2)):
        await _rate(log, plain, contents)
        await _rate(log, names, contents)
    for number in range(ROUNDS):
        turns = [("with transactions", names), ("without", plain)]
        for how, where in turns if number % 2 else reversed(turns):
            contents = vit_b32.captions(count, f"turn {number} {how}")
            taken[how] += count / await _rate(log, where, contents)
    cost = 1 - taken["without"] / taken["with transactions"]
    return [
        {"what": f"captions, in turns, {how}", "per_s": ROUNDS * count / spent}
        for how, spent in taken.items()
    ], Goal("transactions of the time to encode, at load", cost, 0.05, "lower")


def _transaction_ms(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the milliseconds of the worker's transactions between two readings."""

    def more(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    count = more("tidelens_encode_transaction_seconds_count")
    assert count
    return 1000 * more("tidelens_encode_transaction_seconds_sum") / count


async def _rate(log: KafkaEventLog, names: Names, contents: Sequence[Content]) -> float:
    began = time.perf_counter()
    await _arrivals(log, names, contents, None)
    return len(contents) / (time.perf_counter() - began)


async def _arrivals(
    log: KafkaEventLog, names: Names, contents: Sequence[Content], rate: float | None
) -> list[float]:
    """Return the seconds from each publication to the committed embedding, by the latter's order.

    `rate` is per second, in random distances; with None all are published at once.
    """
    target = contents[0].target
    partitions = [TopicPartition(names.embeddings(target), n) for n in range(PARTITIONS)]
    reader = await log.tail(await log.end_offsets(partitions))
    sent: dict[str, float] = {}
    latencies: list[float] = []
    try:
        publishing = asyncio.create_task(_publish(log, names, contents, rate, sent))
        while len(latencies) < len(contents):
            fetched = await reader.fetch(records_max=5_000, timeout_ms=100)
            now = time.perf_counter()
            latencies.extend(
                now - sent[(record.key or b"").decode()]
                for record in itertools.chain.from_iterable(fetched.records.values())
            )
        await publishing
    finally:
        await reader.close()
    return latencies


async def _publish(
    log: KafkaEventLog,
    names: Names,
    contents: Sequence[Content],
    rate: float | None,
    sent: dict[str, float],
) -> None:
    topic = names.content(contents[0].target)
    if rate is None:
        now = time.perf_counter()
        sent.update((content.id, now) for content in contents)
        await publish(log, names, contents)
        return
    dice, at = random.Random(1), time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for content in contents:
            at += dice.expovariate(rate)
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            # From when it was due: a producer that is late must not hide what it waited for.
            sent[content.id] = at
            tasks.create_task(log.publish([content_record(topic, content)]))


async def _queried(running: System, seconds: float) -> tuple[list[dict[str, Any]], list[Goal]]:
    jpegs = vit_b32.jpegs()
    await _searches(running, seconds / 4, "warm")
    quiet = await _searches(running, seconds, "quiet")
    names = Names("tidelens.", running.space)
    connection = KafkaConnection(running.brokers, KafkaSettings())
    async with KafkaEventLog.open(
        connection,
        partition_of=partitioner("murmur2"),
        record_bytes_max=RECORD_BYTES_MAX,
    ) as log:
        # More than it can work off meanwhile.
        backlog = vit_b32.pictures(int(200 * seconds), jpegs, "bulk")
        await publish(log, names, backlog)
        busy = await _searches(running, seconds, "busy")
    found = {"quiet": _percentiles(quiet), "while bulk encoding": _percentiles(busy)}
    rows = [
        {"what": f"query, {state}", "per_s": QUERIES_PER_S, **figures}
        for state, figures in found.items()
    ]
    ratio = found["while bulk encoding"]["p99_ms"] / found["quiet"]["p99_ms"]
    return rows, [Goal("query p99 while bulk encoding, of quiet", ratio, 2.0, "lower")]


async def _searches(running: System, seconds: float, name: str) -> list[float]:
    """Return the seconds of each search, with a text that no cache knows."""
    latencies: list[float] = []
    dice, at = random.Random(1), time.perf_counter()
    texts = (content.text for content in vit_b32.captions(int(QUERIES_PER_S * seconds), name))

    async def one(text: str | None, due: float) -> None:
        await running.client.search({"text": text, "k": 10})
        latencies.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as tasks:
        for text in texts:
            at += dice.expovariate(QUERIES_PER_S)
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            tasks.create_task(one(text, at))
    return latencies


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    found = np.percentile(np.asarray(latencies) * 1000, (50, 99))
    return {"p50_ms": float(found[0]), "p99_ms": float(found[1]), "count": len(latencies)}


if __name__ == "__main__":
    main()
