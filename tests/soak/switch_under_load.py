"""Repeat the checks of `tidelens space switch` under load, and count the false alarms.

    python -m tests.soak.switch_under_load [--attempts 20] [--rate 80] [--bad 0.04] [--window 0.5]

Captions are published, overwritten and deleted meanwhile, and a share of the records cannot be
served. Encoders of both spaces are current, so nothing is missing in the new one: each refusal is a
false alarm, and the exit code is then 1. `--window` is the least time in seconds between the two
readings of a partition; a large partition takes as long.
"""

import argparse
import asyncio
import logging
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from contracts.errors import TidelensError
from contracts.events.content_event import content_record, delete_record
from contracts.events.control_record import CandidateSpace, SpaceRef
from contracts.events.record import OutRecord, TopicPartition
from contracts.ports.event_log import EventLog
from contracts.settings import Settings
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS, Names, topic_specs
from streams.devbroker.broker import LocalBroker
from streams.ownership.kafka_ownership import KafkaEncoderLog
from streams.topics.admin import create_topics
from tests.kits.broker_fixture import FAST
from tests.kits.kafka import RECORD_BYTES_MAX, Collection, caption, collection, worker
from tidelens.migration import compare, switch
from tidelens.migration.collection import OpenCollection
from tidelens.process import logs

_PARTITIONS = 3
_ITEMS = 300
_DELETED_SHARE = 0.03
_TICK_S = 0.05

OLD, NEW = HashEncoder(), HashEncoder(48, "hash-48")


class Load:
    """A publisher of `rate` records a second, of which a share `bad` is broken.

    A few of its items come and go.
    """

    def __init__(self, kit: Collection, rate: float, bad: float, seed: int) -> None:
        self._kit, self._rate, self._bad = kit, rate, bad
        self._dice = random.Random(seed)
        self.published = self.refused = 0

    async def run(self) -> None:
        began = time.monotonic()
        while True:
            wanted = int((time.monotonic() - began) * self._rate)
            records = [self._record(n) for n in range(self.published, wanted)]
            if records:
                await self._kit.log.publish(records)
            self.published = wanted
            await asyncio.sleep(_TICK_S)

    def _record(self, number: int) -> OutRecord:
        topic, name = self._kit.names.content("captions"), f"c{self._dice.randrange(_ITEMS)}"
        chance = self._dice.random()
        if chance < self._bad:
            self.refused += 1
            good = content_record(topic, caption(name, "x"))
            return OutRecord(topic, good.key, b"{", good.headers)
        if chance < self._bad + _DELETED_SHARE:
            return delete_record(topic, name)
        return content_record(topic, caption(name, f"text {number}"))


@asynccontextmanager
async def encoding(kit: Collection, encoder: HashEncoder) -> AsyncIterator[None]:
    names = Names(kit.names.prefix, encoder.space.name)
    log = KafkaEncoderLog(kit.connection, names, record_bytes_max=RECORD_BYTES_MAX)
    async with log.join(names.encoder_group) as ownership:
        running = asyncio.create_task(
            worker(ownership, names, kit.partitions, encoder=encoder).run()
        )
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def candidate(kit: Collection) -> tuple[OpenCollection, SpaceRef]:
    """Make the new space's topics, and write the record of a rebuild that ran to its end."""
    names = Names(kit.names.prefix, NEW.space.name)
    specs = topic_specs(names, partitions=kit.partitions, content_bytes_max=RECORD_BYTES_MAX)
    embeddings = {names.embeddings(target) for target in TARGETS}
    made = [spec for spec in specs if spec.name in embeddings]
    await create_topics(kit.connection, made, replication_factor=1, min_insync_replicas=1)
    settings = Settings(brokers=kit.connection.brokers, topic_prefix=kit.names.prefix)
    asked = OpenCollection(settings, kit.connection, kit.log)
    ref = SpaceRef.of(NEW.space, "hash:48")
    await asked.write(CandidateSpace(ref, 0.0, encoded_at=1.0).record(kit.names.control))
    return asked, SpaceRef.of(OLD.space, "hash")


async def run(folder: Path, options: argparse.Namespace) -> int:
    """Return how many attempts were refused."""
    broker = LocalBroker(folder / "kafka", heap_mb=256, extra=FAST)
    await broker.start()
    try:
        async with collection(broker.bootstrap, partitions=_PARTITIONS) as kit:
            asked, old = await candidate(kit)
            load = Load(kit, options.rate, options.bad, options.seed)
            async with encoding(kit, OLD), encoding(kit, NEW):
                publishing = asyncio.create_task(load.run())
                widen(options.window)
                await asyncio.sleep(3)
                try:
                    return await attempts(asked, old, load, options.attempts)
                finally:
                    publishing.cancel()
                    await asyncio.gather(publishing, return_exceptions=True)
    finally:
        await broker.stop()


def widen(window_s: float) -> None:
    """Let time pass between the two readings of each partition of captions."""
    real = compare._encoded

    async def slow(log: EventLog, names: Names, content: TopicPartition, *wanted: Any) -> None:
        if content.topic == names.content("captions"):
            await asyncio.sleep(window_s)
        await real(log, names, content, *wanted)

    compare._encoded = slow


async def attempts(asked: OpenCollection, old: SpaceRef, load: Load, count: int) -> int:
    refused = 0
    for number in range(count):
        began, before = time.monotonic(), (load.published, load.refused)
        made, sets = await switch.check_switch(asked, old)
        said = "whole"
        try:
            switch.require_whole(sets, made.ref)
        except TidelensError as error:
            refused += 1
            said = str(error)
        took = time.monotonic() - began
        meanwhile = f"{load.published - before[0]} records, {load.refused - before[1]} of them bad"
        items = f"{sets.old['captions']} and {sets.new['captions']} items"
        print(f"{number + 1:3}  {took:.2f} s, {meanwhile}; {items}: {said}", flush=True)
    print(f"{load.published:,} records published, {load.refused:,} of them bad")
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=20)
    parser.add_argument("--rate", type=float, default=80)
    parser.add_argument("--bad", type=float, default=0.04)
    parser.add_argument("--window", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    logs.configure("auto", "soak", level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        refused = asyncio.run(run(Path(folder), options))
    if refused:
        raise SystemExit(f"{refused} false alarms in {options.attempts} attempts")
    print(f"no false alarm in {options.attempts} attempts")


if __name__ == "__main__":
    main()
