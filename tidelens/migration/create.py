"""Making a new space beside live traffic: re-encode, index, compare.

All that it knows stands in Kafka (the encoders' committed offsets, the candidate's record), so it
may be ended at any point, kill -9 included, and started again.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from random import Random
from time import perf_counter
from typing import Any

import numpy as np
import structlog

from consumers.models import open_encoder, space_of
from contracts import fault_points
from contracts.errors import BrokerUnavailable, ConfigurationError
from contracts.events.control_record import CandidateSpace, SpaceRef
from contracts.events.record import TopicPartition
from contracts.metrics import Metrics
from contracts.ports.encoder import Encoder
from contracts.ports.hit import VectorQuery
from contracts.ports.lag import Lag
from contracts.prompts import fill_templates
from contracts.score import Vectors, unit
from contracts.space import Space
from contracts.topics import TARGETS, topic_specs
from contracts.zero_shot import query_vector
from index_store.search.searcher import AppliedFeed, LocalSearcher
from index_store.storage.open import open_blobs
from streams.lag.kafka_lag import KafkaLag
from streams.topics.creation import make_topics
from tidelens.client import Client
from tidelens.migration.compare import Answers, LiveSets, compare_answers, compare_sets
from tidelens.migration.switch import Collection
from tidelens.process.clock import SystemClock
from tidelens.runtime.encode_role import open_worker
from tidelens.runtime.maintainer import make_maintainer
from tidelens.runtime.model_guess import absolute

log = structlog.get_logger(__name__)

K = 10
TEXTS_MAX = 200

_REPLICA = "rebuild"
_LOOK_S = 0.5
# Beside live traffic something always waits; this little is no backlog.
_BACKLOG_S = 5.0
_CAPTIONS_SEEN = 1_000

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What this run encoded, the rest was there before; `total` is all there is."""

    records: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """How the new space compares with the old one."""

    old: SpaceRef
    new: SpaceRef
    encoded: Encoded
    sets: LiveSets
    answers: Answers
    snapshot: str

    def wire(self) -> dict[str, Any]:
        return {
            "space": self.new.space,
            "model": self.new.model,
            "old": self.old.space,
            "encoded": asdict(self.encoded),
            **self.sets.wire(),
            **asdict(self.answers),
            "snapshot": self.snapshot,
        }


async def choose(collection: Collection, old: SpaceRef, space: str, model: str) -> SpaceRef:
    """What is to be made, and the record that says so. Raises ConfigurationError."""
    model = await asyncio.to_thread(absolute, model)
    ref = SpaceRef.of(await asyncio.to_thread(space_of, model), model)
    if ref.space != space:
        raise ConfigurationError(f"--space {space}: model {model!r} makes space {ref.space}")
    control = await collection.control()
    if ref.space == old.space:
        raise ConfigurationError(f"--space {space}: it is the active space")
    if control.active is not None and ref in control.active.served:
        raise ConfigurationError(
            f"--space {space}: kept for a rollback; `tidelens rebuild --rollback` goes back to it"
        )
    known = control.candidate
    if known is not None and known.ref != ref:
        raise ConfigurationError(
            f"--space {space}: {known.ref.space} is being made; give it up first with "
            "`tidelens rebuild --abandon`"
        )
    return ref


async def make_space(
    collection: Collection,
    old: SpaceRef,
    ref: SpaceRef,
    client: Client,
    texts: Sequence[str],
    tell: Tell,
) -> Report:
    """Re-encode into `ref`, index it, compare it with `old`, which `client` answers in.

    `texts` are queries to compare with; where they are few, captions are asked as well.
    """
    settings = collection.settings
    # Live traffic goes first: at equal priority a query would wait seconds for this.
    os.nice(19)
    # 1. Its topics.
    await _create_topics(collection, ref)
    # 2. The record that says that it is being made; one of an earlier run goes on.
    candidate = await _begin(collection, ref)
    fault_points.reach("space.begun")
    # 3. Every content record, in the encoders' own group.
    encoder = await asyncio.to_thread(
        open_encoder,
        ref.model,
        threads=settings.encode_threads_used,
        precision=settings.precision_named,
        remote_code=settings.remote_code,
    )
    async with _encoding(collection, encoder) as encoding:
        encoded = await _caught_up(collection, ref, encoding, tell)
        # 4. From here on `up` keeps it current.
        if candidate.encoded_at is None:
            done = replace(candidate, encoded_at=SystemClock().now())
            await collection.write(done.record(collection.names().control))
        fault_points.reach("space.encoded")
        # 5. Its index, written as a snapshot that nodes can begin from.
        async with _indexed(collection, encoder.space) as (searcher, snapshot):
            # 6. Against the old one.
            sets = await compare_sets(
                collection.event_log,
                collection.names(old.space),
                collection.names(ref.space),
                await collection.partitions(ref.space),
            )
            asked = await _texts(searcher, encoder.space, texts)

            async def encode(some: Sequence[str]) -> Vectors:
                return await asyncio.to_thread(_queries, encoder, some, settings.query_templates)

            answers = await compare_answers(client, searcher, encode, asked, K)
    return Report(old, ref, encoded, sets, answers, snapshot)


async def _create_topics(collection: Collection, ref: SpaceRef) -> None:
    """With the content topics' own partition counts, whatever the settings say by now."""
    settings, names = collection.settings, collection.names(ref.space)
    counts = await collection.event_log.partition_counts([names.content(t) for t in TARGETS])
    specs = [
        spec
        for target in TARGETS
        for spec in topic_specs(
            names,
            partitions=counts[names.content(target)],
            content_bytes_max=settings.record_bytes_max,
        )
        if spec.name == names.embeddings(target)
    ]
    await make_topics(
        collection.connection,
        names,
        specs,
        replication_factor=settings.replication_factor,
        min_insync_replicas=settings.min_insync_replicas,
    )


async def _begin(collection: Collection, ref: SpaceRef) -> CandidateSpace:
    known = (await collection.control()).candidate
    if known is not None:
        return known
    candidate = CandidateSpace(ref, SystemClock().now())
    await collection.write(candidate.record(collection.names().control))
    return candidate


@asynccontextmanager
async def _encoding(
    collection: Collection, encoder: Encoder
) -> "AsyncIterator[asyncio.Task[None]]":
    """A worker in the space's group, running."""
    opened = open_worker(
        collection.settings, collection.connection, encoder, Metrics(), SystemClock()
    )
    async with opened as worker:
        running = asyncio.create_task(worker.run(), name="encode")
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.wait([running])


async def _caught_up(
    collection: Collection, ref: SpaceRef, encoding: "asyncio.Task[None]", tell: Tell
) -> Encoded:
    """Wait until the group is past what there was at the start, and nothing waits for long.

    Others may help: any encoder of the model is a member of the same group.
    """
    source = KafkaLag(collection.connection, collection.names(ref.space), None, SystemClock())
    await source.start()
    began, first = perf_counter(), None
    wanted: dict[TopicPartition, int] = {}
    try:
        while True:
            rows = await _rows(source)
            total = sum(row.end for row in rows)
            done = total - sum(row.records for row in rows)
            first = done if first is None else first
            tell(done, total)
            wanted = wanted or {_place(row): row.end for row in rows}
            if rows and all(_is_current(row, wanted) for row in rows):
                return Encoded(done - first, total, round(perf_counter() - began, 3))
            await asyncio.wait([encoding], timeout=_LOOK_S)
            if encoding.done():
                encoding.result()
    finally:
        await source.stop()


async def _rows(source: KafkaLag) -> list[Lag]:
    """Of the encoders' group; none while the broker is away, which is waited out."""
    try:
        return [row for row in await source.lag() if row.role == "encode"]
    except BrokerUnavailable as error:
        log.warning("waiting for the broker", error=str(error))
        return []


def _place(row: Lag) -> TopicPartition:
    return TopicPartition(row.topic, row.partition)


def _is_current(row: Lag, wanted: dict[TopicPartition, int]) -> bool:
    if row.records == 0:
        return True
    return row.position >= wanted[_place(row)] and row.seconds < _BACKLOG_S


@asynccontextmanager
async def _indexed(
    collection: Collection, space: Space
) -> AsyncIterator[tuple[LocalSearcher, str]]:
    """The space's index, current, and the name of its snapshot."""
    settings = collection.settings
    searcher = LocalSearcher(target_recall=settings.target_recall)
    async with open_blobs(settings.snapshots, settings.data / "snapshots") as store:
        maintainer = make_maintainer(
            settings,
            collection.event_log,
            space,
            _REPLICA,
            store,
            searcher,
            AppliedFeed(),
            Metrics(),
            SystemClock(),
        )
        running = asyncio.create_task(maintainer.run(), name="index")
        try:
            while not searcher.is_ready:
                await asyncio.wait([running], timeout=_LOOK_S)
                if running.done():
                    running.result()
            await maintainer.rebuild_if_due()
            index = maintainer.index
            assert index is not None
            yield searcher, await maintainer.keeper.write(index)
        finally:
            running.cancel()
            await asyncio.wait([running])
            # The snapshot holds what these files hold.
            files = settings.data / "segments" / space.name / settings.shard / _REPLICA
            await asyncio.to_thread(shutil.rmtree, files, ignore_errors=True)


def _queries(encoder: Encoder, texts: Sequence[str], templates: Sequence[str]) -> Vectors:
    """As the nodes' query encoders do it."""
    rows = encoder.encode_texts(fill_templates(texts, templates))
    step = len(templates)
    return np.stack([query_vector(rows[at : at + step]) for at in range(0, len(rows), step)])


async def _texts(searcher: LocalSearcher, space: Space, given: Sequence[str]) -> list[str]:
    """The queries given, then captions, up to a bound and each once."""
    texts = list(dict.fromkeys(given))[:TEXTS_MAX]
    if len(texts) < TEXTS_MAX:
        # Some thousand captions, wherever they lie; the same at every run.
        anywhere = unit(np.random.default_rng(0).standard_normal((1, space.dim)))[0]
        query = VectorQuery("captions", anywhere, k=_CAPTIONS_SEEN, exact=True)
        [answer] = await searcher.search([query])
        captions = sorted({hit.text for hit in answer.hits if hit.text} - set(texts))
        count = min(TEXTS_MAX - len(texts), len(captions))
        texts += Random(0).sample(captions, count)
    return texts
