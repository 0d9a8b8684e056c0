"""Random histories against the plainest reading of the log: fold, exact search, digest, snapshots.

The model keeps no state: it reads the logs up to the index's positions, the last record of a key
wins, and a search scores every live item with float64. Logs are compacted meanwhile, views are
held and read by a thread, and snapshots are written and restored late. After any history, a replay
from the beginning has the same digest.

    FOLD_HISTORIES=5000 python -m pytest tests/property/test_fold.py --timeout 0

runs through that many histories; by default 100, and 1,000 more in scripts/test long.
"""

import asyncio
import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from contracts.events.embedding_record import Embedding, encode_embedding, read_embedding
from contracts.events.record import Fetched, Record, Source, TopicPartition
from contracts.filters.json_form import parse
from contracts.filters.nodes import Filter
from contracts.filters.warnings import warnings_of
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors, unit
from contracts.space import Space
from contracts.testing.blob_store import MemoryBlobStore
from contracts.topics import TARGETS, Names, Target
from index_store.ann import flat, growing_codes
from index_store.ann.faiss_index import AnnIndex, OperatingPoint
from index_store.ann.growing_codes import GrowingCodes, RowQuantizer
from index_store.index import Index
from index_store.search import scan
from index_store.segment.manager import SegmentManager
from index_store.segment.pending_merge import PendingMerge
from index_store.segment.sealed import SealedSegment
from index_store.view import IndexView
from tests.kits.index_kit import (
    MURMUR2,
    brute_force,
    built,
    new_spill,
    pairs,
    snapshots_in,
    types_by_field,
)

SPACE = Space("fold-v1", "m", "1", "p", 4)
OTHER_SPACE = Space("fold-v1", "m", "2", "p", 4)
NAMES = Names("t.", SPACE.name)
PARTITIONS = 3
TOPIC_IDS = {NAMES.embeddings(target): f"topic-{target}" for target in TARGETS}
HISTORIES = int(os.environ.get("FOLD_HISTORIES", "100"))
ITEM_IDS = [f"id-{n}" for n in range(40)]
# Few vectors are distinct, so that equal scores are common and the order by id matters. Two differ
# by less than float32 distinguishes.
DICE = np.random.default_rng(3)
VECTORS = [unit(v) for v in DICE.standard_normal((5, 4))]
VECTORS.append(np.nextafter(VECTORS[0], np.float16(1)))
BAD_VALUES = [
    b"TLE\x01 torn",
    encode_embedding(OTHER_SPACE, VECTORS[0]),
    encode_embedding(SPACE, 2 * VECTORS[0]),
    encode_embedding(SPACE, VECTORS[0])[:-1] + b"?",
]

targets = st.sampled_from(TARGETS)
item_ids = st.sampled_from(ITEM_IDS)
vectors = st.sampled_from(VECTORS)

kinds = st.sampled_from(["Flat", "IVF2,SQ8"])
metadatas = st.sampled_from([{}, {"n": 1}, {"n": 2, "b": [True]}])

FILTERS = [
    None,
    parse({"eq": {"n": 1}}),
    parse({"range": {"n": {"gte": 1}}}),
    parse({"not": {"exists": "b"}}),
]

Answer = list[tuple[str, float]]


# All histories share one loop, since making one takes longer than most steps.
LOOP: asyncio.Runner


@pytest.fixture(autouse=True, scope="module")
def searches_of_few_rows() -> Iterator[None]:
    """Make searches of few rows nominate no more than asked for, and require some to do so.

    Otherwise all rows would always be scored, and no second scan would be needed. Searches through
    an index and through codes are counted.
    """
    asked = {AnnIndex: 0, GrowingCodes: 0}

    def counted(kind: type[AnnIndex | GrowingCodes]) -> Any:
        search = kind.search

        def counting(*arguments: Any) -> Any:
            asked[kind] += 1
            return search(*arguments)

        return counting

    # So few rows train nothing: every table gets these codes as soon as it is searched.
    rows = unit(np.random.default_rng(7).standard_normal((400, SPACE.dim)))
    index = faiss.index_factory(SPACE.dim, "IVF2,PQ2x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(rows.astype(np.float32))
    index.add(rows.astype(np.float32))
    coder = RowQuantizer.from_ann(
        AnnIndex("IVF2,PQ2x4fs", index, [OperatingPoint(1, 1, 0.5, 0.1)], flat.flat_index(rows))
    )
    assert coder is not None

    # To start a second thread takes longer than to search so few rows.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_SPARE", 0)
        patch.setattr(scan, "_ROWS_PER_ITEM", 1)
        for kind in (AnnIndex, GrowingCodes):
            patch.setattr(kind, "search", counted(kind))
        patch.setattr(growing_codes, "_DEPTH_MIN", 1)
        patch.setattr(
            SegmentManager, "_quantizer", lambda table: coder if table.is_searched else None
        )
        global LOOP
        with asyncio.Runner() as LOOP:
            yield
    faiss.omp_set_num_threads(threads)
    assert min(asked.values()) > HISTORIES // 10, f"hardly any search went through one: {asked}"


@cache
def read(topic: str, key: bytes, value: bytes, offset: int) -> Embedding:
    """Decode a record; it is cached because the log is read again at every step."""
    headers = [("source", Source("content", 0, offset).encode()), ("appended", b"1")]
    return read_embedding(SPACE, Record(topic, 0, offset, 1, key, value, headers))


class Reading:
    """A thread that reads until its context ends, at least once; `wrong` says what was wrong."""

    def __init__(self, index: Index, held: list[tuple[IndexView, VectorQuery, Answer]]) -> None:
        self.wrong: str | None = None
        self._index = index
        self._held = held
        self._began, self._ends = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        # Otherwise it would hardly ever run in the middle of a step.
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        self._thread.start()
        self._began.wait()

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._thread.join()
        sys.setswitchinterval(self._interval)

    def _run(self) -> None:
        try:
            while self.wrong is None:
                for view, query, expected in self._held:
                    if pairs(view.search([query])[0]) != expected:
                        self.wrong = f"a held view answers {query} otherwise than before"
                view = self._index.view
                if view.recomputed_digests() != view.digests:
                    self.wrong = f"the view at {view.positions} is not whole"
                self._began.set()
                if self._ends.is_set():
                    return
        except Exception as error:
            self.wrong = repr(error)
        finally:
            self._began.set()


def new_index() -> Index:
    # Tiny chunks, so that they fill, die and merge all the time.
    counts = dict.fromkeys(TARGETS, PARTITIONS)
    return Index(SPACE, NAMES, counts, TOPIC_IDS, growing_segment_rows=5)


class Fold(RuleBasedStateMachine):
    @initialize(sealed=st.sets(targets), searched=st.booleans())
    def start(self, sealed: set[Target], searched: bool) -> None:
        """Start empty or with a segment that has an index, which few histories build by themselves.

        Codes are as rare: half of the histories give rows codes from the start, and search once.
        """
        partitions = [
            TopicPartition(NAMES.embeddings(t), n) for t in TARGETS for n in range(PARTITIONS)
        ]
        self.logs: dict[TopicPartition, list[Record]] = {tp: [] for tp in partitions}
        self.ends = dict.fromkeys(partitions, 0)
        self.compacted = dict.fromkeys(partitions, 0)
        self.index = new_index()
        if searched:
            self.index.enable_growing_codes()
        self.snapshots = snapshots_in(MemoryBlobStore(), "fold-v1/0/0/")
        self.merges: list[tuple[Target, PendingMerge]] = []
        self.spill = new_spill()
        self.held: list[tuple[IndexView, VectorQuery, Answer]] = []
        for of in sorted(sealed):
            some = [(i, VECTORS[n % len(VECTORS)], None) for n, i in enumerate(ITEM_IDS[:30])]
            self.put(of, some, {"n": 1})
            self.apply_all()
            self.rebuild(of, 0, True, "IVF2,SQ8", False)
        if searched:
            self.put("captions", [(i, VECTORS[0], None) for i in ITEM_IDS[30:]], {"n": 2})
            self.search("captions", VECTORS[1], 1, 0, None, False, None, True)

    # What producers and encoders do

    def append(self, of: Target, item_id: str, value: bytes | None, shift: int = 0) -> None:
        key = item_id.encode()
        number = (MURMUR2(key, PARTITIONS) + shift) % PARTITIONS
        partition = TopicPartition(NAMES.embeddings(of), number)
        offset = self.ends[partition]
        headers = [("source", Source("content", number, offset).encode()), ("appended", b"1")]
        self.logs[partition].append(Record(*partition, offset, 1, key, value, headers))
        # A transaction's marker takes an offset now and then.
        self.ends[partition] += 1 + offset % 3 // 2

    @rule(
        of=targets,
        some=st.lists(
            st.tuples(item_ids, vectors, st.sampled_from([None, "a", "b"])), min_size=3, max_size=12
        ),
        metadata=metadatas,
    )
    def put(self, of: Target, some: list[Any], metadata: dict[str, Any]) -> None:
        for item_id, vector, item in some:
            value = encode_embedding(SPACE, vector, item=item, text=item_id, metadata=metadata)
            self.append(of, item_id, value)

    @rule(of=targets, number=st.integers(0, 99), metadata=metadatas)
    def change_only_metadata(self, of: Target, number: int, metadata: dict[str, Any]) -> None:
        items = self.model(of, self.ends)
        if items:
            item_id = sorted(items)[number % len(items)]
            vector, item, _ = items[item_id]
            value = encode_embedding(SPACE, vector, item=item, text=item_id, metadata=metadata)
            self.append(of, item_id, value)

    @rule(of=targets, some=st.lists(item_ids, max_size=4))
    def delete(self, of: Target, some: list[str]) -> None:
        for item_id in some:
            self.append(of, item_id, None)

    @rule(of=targets, item_id=item_ids, shift=st.integers(1, PARTITIONS - 1), dead=st.booleans())
    def write_to_a_wrong_partition(self, of: Target, item_id: str, shift: int, dead: bool) -> None:
        self.append(of, item_id, None if dead else encode_embedding(SPACE, VECTORS[0]), shift)

    @rule(of=targets, item_id=item_ids, value=st.sampled_from(BAD_VALUES))
    def write_what_cannot_be_read(self, of: Target, item_id: str, value: bytes) -> None:
        self.append(of, item_id, value)

    @rule(seed=st.integers(0, 2**16))
    def compact(self, seed: int) -> None:
        """Drop some records that a later one of their key supersedes, as the broker does."""
        dice = random.Random(seed)
        for partition, log in self.logs.items():
            # Never beyond where the index is: min.compaction.lag.ms.
            end = self.index.positions[partition]
            last = {record.key: record.offset for record in log if record.offset < end}
            self.logs[partition] = [
                record
                for record in log
                if record.offset >= end or last[record.key] == record.offset or dice.random() < 0.3
            ]
            self.compacted[partition] = end

    # What an index node does

    def apply(self, ends: dict[TopicPartition, int], back: int = 0) -> None:
        batch = Fetched()
        for partition, end in ends.items():
            start = self.index.positions[partition] - back
            records = [r for r in self.logs[partition] if start <= r.offset < end]
            if records:
                batch.records[partition] = records
            batch.positions[partition] = end
        self.index.apply(batch)

    @rule(seed=st.integers(0, 2**16), back=st.integers(0, 6))
    def apply_some(self, seed: int, back: int) -> None:
        """Apply a part of some partitions, in any order; a part may repeat what was applied."""
        dice = random.Random(seed)
        partitions = dice.sample(list(self.logs), dice.randint(1, len(self.logs)))
        steps = {tp: self.index.positions[tp] + dice.randrange(-back, 8) for tp in partitions}
        self.apply({tp: min(end, self.ends[tp]) for tp, end in steps.items()}, back)

    @rule()
    def apply_all(self) -> None:
        self.apply(self.ends)

    @rule()
    def write_a_snapshot(self) -> None:
        LOOP.run(self.snapshots.write(self.index))

    @rule()
    def restart(self) -> None:
        """Restore the last snapshot, however old, or begin empty; then apply what was compacted."""
        restored = LOOP.run(self.snapshots.restore(new_index()))
        assert self.snapshots.refused == {}
        self.index = restored or new_index()
        self.merges = []
        # Before the end of what is compacted, no state on the way is promised.
        self.apply(self.compacted)

    @precondition(lambda self: len(self.merges) < 3)
    @rule(of=targets, seed=st.integers(0, 2**16), everything=st.booleans())
    def begin_a_rebuild(self, of: Target, seed: int, everything: bool) -> None:
        """Begin a rebuild of all segments or some, beside those that are under way."""
        known, dice = self.index.segments_of(of).sealed_segments, random.Random(seed)
        some = dice.sample(known, dice.randint(0, len(known)))
        self.merges.append((of, self.index.begin_merge(of, None if everything else some)))

    @precondition(lambda self: self.merges)
    @rule(kind=kinds, number=st.integers(0, 2), like=st.booleans())
    def swap_in_what_was_rebuilt(self, kind: str, number: int, like: bool) -> None:
        """Replace merged segments by one whose index is newly trained, or as the largest one's."""
        of, merge = self.merges.pop(number % len(self.merges))
        model = self.largest(of) if like else None
        segment = LOOP.run(built(self.index, of, merge, self.spill, kind, model))
        self.index.commit_merge(of, merge, segment)

    @precondition(lambda self: len(self.merges) < 3)
    @rule(
        of=targets,
        seed=st.integers(0, 2**16),
        everything=st.booleans(),
        kind=kinds,
        like=st.booleans(),
    )
    def rebuild(self, of: Target, seed: int, everything: bool, kind: str, like: bool) -> None:
        self.begin_a_rebuild(of, seed, everything)
        self.swap_in_what_was_rebuilt(kind, len(self.merges) - 1, like)

    def largest(self, of: Target) -> SealedSegment | None:
        trained = [
            one
            for one in self.index.segments_of(of).sealed_segments
            if one.ann is not None and one.live
        ]
        return max(trained, key=lambda one: one.capacity, default=None)

    @rule()
    def enable_growing_codes(self) -> None:
        self.index.enable_growing_codes()

    @precondition(lambda self: self.merges)
    @rule(number=st.integers(0, 2))
    def give_a_rebuild_up(self, number: int) -> None:
        self.index.abort_merge(*self.merges.pop(number % len(self.merges)))

    # What must hold

    def model(
        self, of: Target, ends: Mapping[TopicPartition, int] | None = None
    ) -> dict[str, tuple[Vectors, str | None, Mapping[str, Any]]]:
        """Return the live items at the index's positions, or at `ends`."""
        ends = self.index.positions if ends is None else ends
        items: dict[str, tuple[Vectors, str | None, Mapping[str, Any]]] = {}
        for partition, log in self.logs.items():
            if partition.topic != NAMES.embeddings(of):
                continue
            for record in log:
                assert record.key is not None
                own = MURMUR2(record.key, PARTITIONS) == partition.partition
                if own and record.offset < ends[partition]:
                    items.pop(record.key.decode(), None)
                    if record.value is not None and record.value not in BAD_VALUES:
                        found = read(record.topic, record.key, record.value, record.offset)
                        assert found.vector is not None
                        items[found.id] = (found.vector, found.item, found.metadata)
        return items

    @rule(
        of=targets,
        vector=vectors,
        k=st.integers(1, 16),
        offset=st.integers(0, 3),
        min_score=st.sampled_from([None, 0.0, 0.5]),
        collapse=st.booleans(),
        condition=st.sampled_from(FILTERS),
        caught_up=st.booleans(),
    )
    def search(
        self,
        of: Target,
        vector: Any,
        k: int,
        offset: int,
        min_score: float | None,
        collapse: bool,
        condition: Filter | None,
        caught_up: bool,
    ) -> None:
        if caught_up:
            self.apply_all()
        live = self.model(of)
        query = VectorQuery(
            of, vector, k, offset, min_score=min_score, collapse=collapse, filter=condition
        )
        model = {
            item_id: (found, item)
            for item_id, (found, item, metadata) in live.items()
            if condition is None or condition.matches(metadata)
        }
        expected = brute_force(model, query)
        [answer] = self.index.view.answers([query])
        hits = answer.hits
        assert pairs(list(hits)) == expected
        kinds = types_by_field(metadata for _, _, metadata in live.values())
        assert list(answer.warnings) == ([] if condition is None else warnings_of(condition, kinds))
        assert [hit.rank for hit in hits] == list(range(offset + 1, offset + 1 + len(hits)))
        assert self.index.count(of) == self.index.view.count(of) == len(live)
        # The segments' indexes give as many hits, all of them live, each with its exact score.
        everything = brute_force(model, VectorQuery(of, vector, 10_000, min_score=min_score))
        for few in {k, 1, 4}:
            asked = replace(query, k=few)
            [near] = self.index.view.search([asked], recall=0.5)
            wanted = len(brute_force(model, asked))
            assert len(near) == wanted or (min_score is not None and len(near) < wanted)
            assert set(pairs(near)) <= set(everything)
        # The view is kept: after any further step, it must answer as it did.
        self.held = [*self.held[-3:], (self.index.view, query, expected)]

    @rule(of=targets, item_id=item_ids)
    def get(self, of: Target, item_id: str) -> None:
        hit, expected = self.index.get(of, item_id), self.model(of).get(item_id)
        if expected is None:
            assert hit is None
        else:
            assert hit is not None
            assert hit.vector is not None
            assert hit.vector.tobytes() == expected[0].tobytes()
            assert (hit.item, hit.text) == (expected[1], item_id)
            assert (hit.metadata or {}) == expected[2]

    @precondition(lambda self: self.held)
    @rule(of=targets, kind=kinds)
    def read_while_it_is_written(self, of: Target, kind: str) -> None:
        """Apply records while a thread searches the held views and checks the current one."""
        index, reader = self.index, Reading(self.index, self.held)
        with reader:
            for partition, end in self.ends.items():
                for position in range(index.positions[partition] + 1, end + 1):
                    self.apply({partition: position})
            merge = index.begin_merge(of)
            segment = LOOP.run(built(index, of, merge, self.spill, kind))
            index.commit_merge(of, merge, segment)
        assert reader.wrong is None, reader.wrong

    @rule(seed=st.integers(0, 2**16))
    def replay_from_the_beginning(self, seed: int) -> None:
        """Replay the log in random batches: a node that starts now comes to the same state."""
        running, dice = self.index, random.Random(seed)
        self.index = new_index()
        while self.index.positions != running.positions:
            ends = {
                tp: min(end, self.index.positions[tp] + dice.randrange(40))
                for tp, end in running.positions.items()
            }
            self.apply(ends)
        assert self.index.digests() == running.digests()
        self.index = running

    @precondition(lambda self: self.held)
    @invariant()
    def held_views_never_change(self) -> None:
        for held, query, expected in self.held:
            assert pairs(held.search([query])[0]) == expected

    def teardown(self) -> None:
        if hasattr(self, "index"):
            while self.merges:
                self.index.abort_merge(*self.merges.pop())
            self.apply_all()
            self.replay_from_the_beginning(0)
            assert self.index.digests_match()
            for table in self.index._segments.values():
                # One more segment got no more rows when the rows that followed got codes.
                assert len(table.growing_segments) <= 1 + 2 * len(table) / 5 + 3


TestFold = pytest.mark.timeout(600)(Fold.TestCase)
TestFold.settings = settings(max_examples=HISTORIES, stateful_step_count=50, deadline=None)


class LongFold(Fold):
    """The machine again, as a class of its own, which has settings of its own."""


TestLongFold = pytest.mark.long(pytest.mark.timeout(900)(LongFold.TestCase))
TestLongFold.settings = settings(max_examples=1000, stateful_step_count=50, deadline=None)
