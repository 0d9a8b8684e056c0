"""Make a new space beside live traffic: encode all items, index them, compare the answers.

Its whole state is in Kafka (the encoders' committed offsets, the candidate's record), so it may be
stopped at any point, by kill -9 too, and started again.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from time import perf_counter

import numpy as np
import structlog

from consumers.models import model_space, open_encoder
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
from contracts.settings import Settings
from contracts.space import Space
from contracts.topics import TARGETS, topic_specs
from contracts.zero_shot import query_vector
from index_store.search.searcher import AppliedFeed, LocalSearcher
from index_store.storage.open import open_blob_store
from streams.lag.kafka_lag import KafkaLag
from streams.topics.creation import create_collection_topics
from tidelens.migration.collection import OpenCollection
from tidelens.migration.compare import (
    compare_answers,
    compare_sets,
)
from tidelens.migration.report import ComparisonReport, EncodeCounts, Progress, Served
from tidelens.process.clock import SystemClock
from tidelens.runtime.encode_role import open_worker
from tidelens.runtime.maintainer import make_maintainer
from tidelens.runtime.model_guess import absolute

log = structlog.get_logger(__name__)

K = 10
TEXTS_MAX = 200

_REPLICA = "rebuild"
_POLL_S = 0.5
# Some records always wait beside live traffic; if they wait for less, the space is current.
_BACKLOG_S = 5.0
_CAPTIONS_SEEN = 1_000


async def new_space(collection: OpenCollection, old: SpaceRef, model: str) -> SpaceRef:
    """Return the space of `model`. Raises ConfigurationError if it cannot be made now."""
    model = await asyncio.to_thread(absolute, model)
    ref = SpaceRef.of(await asyncio.to_thread(model_space, model), model)
    control = await collection.control()
    if ref.space == old.space:
        raise ConfigurationError(f"model {model!r}: {ref.space} is the active space")
    if control.active is not None and ref in control.active.served:
        raise ConfigurationError(
            f"model {model!r}: {ref.space} is kept for a rollback; `tidelens space rollback` "
            "returns to it"
        )
    known = control.candidate
    if known is not None and known.ref != ref:
        raise ConfigurationError(
            f"model {model!r}: space {known.ref.space} is being made; drop it first with "
            f"`tidelens space drop {known.ref.space}`"
        )
    return ref


async def make_space(
    collection: OpenCollection, served: Served, ref: SpaceRef, on_progress: Progress
) -> ComparisonReport:
    """Re-encode everything into the space `ref`, index it, and compare it with the served one.

    If `served` has fewer than TEXTS_MAX texts to compare on, captions are added to them.
    `on_progress` is called with the records encoded so far and with their total.
    """
    _yield_to_live_traffic()
    # 1. Its topics.
    await _create_topics(collection, ref)
    # 2. The record that says that it is being made, unless an earlier run has written it.
    candidate = await _begin(collection, ref)
    fault_points.reach("space.begun")
    # 3. Every content record, in the encoders' own group.
    encoder = await _open_encoder(collection.settings, ref)
    async with _encoding(collection, encoder) as encoding:
        encoded = await _caught_up(collection, ref, encoding, on_progress)
        # 4. From here on `up` keeps it current.
        if candidate.encoded_at is None:
            done = replace(candidate, encoded_at=SystemClock().now())
            await collection.write(done.record(collection.names().control))
        fault_points.reach("space.encoded")
        # 5. Its index, written as a snapshot that nodes can begin from.
        # 6. Its answers beside those of the served space.
        return replace(await _compare(collection, served, ref, encoder), encoded=encoded)


async def compare_space(
    collection: OpenCollection, served: Served, ref: SpaceRef
) -> ComparisonReport:
    """Compare the space `ref`, which is encoded already, with the served one."""
    _yield_to_live_traffic()
    encoder = await _open_encoder(collection.settings, ref)
    async with _encoding(collection, encoder):
        return await _compare(collection, served, ref, encoder)


def _yield_to_live_traffic() -> None:
    # With equal priority, a query would wait for this process for seconds.
    os.nice(19)


async def _open_encoder(settings: Settings, ref: SpaceRef) -> Encoder:
    return await asyncio.to_thread(
        open_encoder,
        ref.model,
        threads=settings.encode_threads_used,
        precision=settings.precision_named,
        remote_code=settings.remote_code,
    )


async def _compare(
    collection: OpenCollection, served: Served, ref: SpaceRef, encoder: Encoder
) -> ComparisonReport:
    async with _indexed(collection, encoder.space) as (searcher, snapshot):
        sets = await compare_sets(
            collection.event_log,
            collection.names(served.space.space),
            collection.names(ref.space),
            await collection.partitions(ref.space),
        )
        texts = await _texts(searcher, encoder.space, served.texts)

        async def encode(some: Sequence[str]) -> Vectors:
            templates = collection.settings.query_templates
            return await asyncio.to_thread(_queries, encoder, some, templates)

        answers = await compare_answers(served.client, searcher, encode, texts, K)
    return ComparisonReport(served.space, ref, None, sets, answers, snapshot)


async def _create_topics(collection: OpenCollection, ref: SpaceRef) -> None:
    """Create the topics of embeddings, with the partition counts of the content topics."""
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
    await create_collection_topics(
        collection.connection,
        names,
        specs,
        replication_factor=settings.replication_factor,
        min_insync_replicas=settings.min_insync_replicas,
    )


async def _begin(collection: OpenCollection, ref: SpaceRef) -> CandidateSpace:
    known = (await collection.control()).candidate
    if known is not None:
        return known
    candidate = CandidateSpace(ref, SystemClock().now())
    await collection.write(candidate.record(collection.names().control))
    return candidate


@asynccontextmanager
async def _encoding(
    collection: OpenCollection, encoder: Encoder
) -> "AsyncIterator[asyncio.Task[None]]":
    """Run an encoder in the space's group, and yield its task."""
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
    collection: OpenCollection, ref: SpaceRef, encoding: "asyncio.Task[None]", on_progress: Progress
) -> EncodeCounts:
    """Wait until the group has encoded all that there was at the start, and is not far behind.

    Other encoders of the model may help, since they are members of the same group. Raises the error
    of `encoding` if that ends.
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
            on_progress(done, total)
            wanted = wanted or {_partition_of(row): row.end for row in rows}
            if rows and all(_is_current(row, wanted) for row in rows):
                return EncodeCounts(done - first, total, round(perf_counter() - began, 3))
            await asyncio.wait([encoding], timeout=_POLL_S)
            if encoding.done():
                encoding.result()
    finally:
        await source.stop()


async def _rows(source: KafkaLag) -> list[Lag]:
    """Return the rows of the encoders' group, or none while the broker is away."""
    try:
        return [row for row in await source.lag() if row.role == "encode"]
    except BrokerUnavailable as error:
        log.warning("waiting for the broker", error=str(error))
        return []


def _partition_of(row: Lag) -> TopicPartition:
    return TopicPartition(row.topic, row.partition)


def _is_current(row: Lag, wanted: dict[TopicPartition, int]) -> bool:
    if row.records == 0:
        return True
    return row.position >= wanted[_partition_of(row)] and row.seconds < _BACKLOG_S


@asynccontextmanager
async def _indexed(
    collection: OpenCollection, space: Space
) -> AsyncIterator[tuple[LocalSearcher, str]]:
    """Yield the current index of the space, and the name of the snapshot written of it."""
    settings = collection.settings
    searcher = LocalSearcher(target_recall=settings.target_recall)
    async with open_blob_store(settings.snapshots, settings.data / "snapshots") as store:
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
                await asyncio.wait([running], timeout=_POLL_S)
                if running.done():
                    running.result()
            await maintainer.merge_if_due()
            index = maintainer.index
            assert index is not None
            yield searcher, await maintainer.snapshot_schedule.write(index)
        finally:
            running.cancel()
            await asyncio.wait([running])
            # These files are not needed any more, since the snapshot has all their rows.
            files = settings.data / "segments" / space.name / settings.shard / _REPLICA
            await asyncio.to_thread(shutil.rmtree, files, ignore_errors=True)


def _queries(encoder: Encoder, texts: Sequence[str], templates: Sequence[str]) -> Vectors:
    """Encode texts as the query encoders of nodes do."""
    rows = encoder.encode_texts(fill_templates(texts, templates))
    step = len(templates)
    return np.stack([query_vector(rows[at : at + step]) for at in range(0, len(rows), step)])


async def _texts(searcher: LocalSearcher, space: Space, given: Sequence[str]) -> list[str]:
    """Return the texts given, then captions, each once and up to a bound."""
    texts = list(dict.fromkeys(given))[:TEXTS_MAX]
    if len(texts) < TEXTS_MAX:
        # Captions near a random vector of a fixed seed, so that every run asks the same ones.
        anywhere = unit(np.random.default_rng(0).standard_normal((1, space.dim)))[0]
        query = VectorQuery("captions", anywhere, k=_CAPTIONS_SEEN, exact=True)
        [answer] = await searcher.search([query])
        captions = sorted({hit.text for hit in answer.hits if hit.text} - set(texts))
        count = min(TEXTS_MAX - len(texts), len(captions))
        texts += Random(0).sample(captions, count)
    return texts
