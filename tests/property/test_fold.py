"""Random histories against the plainest reading of the log: fold, exact search, digest, snapshots.

The model keeps no state: it reads the logs up to the index's positions, the last record of a key
wins, and a search scores every live item with float64. Logs are compacted meanwhile, views are
held, snapshots are written and restored late, and whatever happened, a replay from the beginning
has the same digest.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping
from typing import Any

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

from contracts.embedding import encode_value, read_embedding
from contracts.filter_nodes import Filter
from contracts.filters import parse
from contracts.hits import VectorQuery
from contracts.memory import MemoryBlobs
from contracts.records import Fetched, Record, Source, TopicPartition
from contracts.score import Vectors, unit
from contracts.space import Space
from contracts.topics import TARGETS, Names, Target
from index_store import scan
from index_store.index import Index
from index_store.table import Sealing
from index_store.view import IndexView
from tests.index_kit import MURMUR2, brute_force, built, new_spill, pairs, snapshots_in

SPACE = Space("fold-v1", "m", "1", "p", 4)
OTHER_SPACE = Space("fold-v1", "m", "2", "p", 4)
NAMES = Names("t.", SPACE.name)
PARTITIONS = 3
TOPIC_IDS = {NAMES.embeddings(target): f"topic-{target}" for target in TARGETS}
ITEM_IDS = [f"id-{n}" for n in range(20)]
# Few distinct vectors, so that equal scores are common and the order by id matters; and two that
# differ by less than float32 sees.
DICE = np.random.default_rng(3)
VECTORS = [unit(v) for v in DICE.standard_normal((5, 4))]
VECTORS.append(np.nextafter(VECTORS[0], np.float16(1)))
BAD_VALUES = [
    b"TLE\x01 torn",
    encode_value(OTHER_SPACE, VECTORS[0]),
    encode_value(SPACE, 2 * VECTORS[0]),
    encode_value(SPACE, VECTORS[0])[:-1] + b"?",
]

targets = st.sampled_from(TARGETS)
item_ids = st.sampled_from(ITEM_IDS)
vectors = st.sampled_from(VECTORS)

FILTERS = [
    None,
    parse({"eq": {"n": 1}}),
    parse({"range": {"n": {"gte": 1}}}),
    parse({"not": {"exists": "b"}}),
]

Answer = list[tuple[str, float]]


@pytest.fixture(autouse=True, scope="module")
def nominate_no_more_than_asked_for() -> Iterator[None]:
    """Else so few items would always be scored all, and no second scan would be needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_SPARE", 0)
        patch.setattr(scan, "_ROWS_PER_ITEM", 1)
        yield


def new_index() -> Index:
    # Tiny chunks, so that they fill, die and merge all the time.
    counts = dict.fromkeys(TARGETS, PARTITIONS)
    return Index(SPACE, NAMES, counts, TOPIC_IDS, chunk_rows=5)


class Fold(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        partitions = [
            TopicPartition(NAMES.embeddings(t), n) for t in TARGETS for n in range(PARTITIONS)
        ]
        self.logs: dict[TopicPartition, list[Record]] = {tp: [] for tp in partitions}
        self.ends = dict.fromkeys(partitions, 0)
        self.compacted = dict.fromkeys(partitions, 0)
        self.index = new_index()
        self.snapshots = snapshots_in(MemoryBlobs(), "fold-v1/0/0/")
        self.sealings: list[tuple[Target, Sealing]] = []
        self.spill = new_spill()
        self.held: list[tuple[IndexView, VectorQuery, Answer]] = []

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
        metadata=st.sampled_from([{}, {"n": 1}, {"n": 2, "b": [True]}]),
    )
    def put(self, of: Target, some: list[Any], metadata: dict[str, Any]) -> None:
        for item_id, vector, item in some:
            value = encode_value(SPACE, vector, item=item, text=item_id, metadata=metadata)
            self.append(of, item_id, value)

    @rule(of=targets, some=st.lists(item_ids, max_size=4))
    def delete(self, of: Target, some: list[str]) -> None:
        for item_id in some:
            self.append(of, item_id, None)

    @rule(of=targets, item_id=item_ids, shift=st.integers(1, PARTITIONS - 1), dead=st.booleans())
    def write_to_a_wrong_partition(self, of: Target, item_id: str, shift: int, dead: bool) -> None:
        self.append(of, item_id, None if dead else encode_value(SPACE, VECTORS[0]), shift)

    @rule(of=targets, item_id=item_ids, value=st.sampled_from(BAD_VALUES))
    def write_what_cannot_be_read(self, of: Target, item_id: str, value: bytes) -> None:
        self.append(of, item_id, value)

    @rule(seed=st.integers(0, 2**16))
    def compact(self, seed: int) -> None:
        """The broker drops some records that a later one of their key supersedes."""
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
        """Some of each partition, the partitions in any order; repeats, and nothing but repeats."""
        dice = random.Random(seed)
        partitions = dice.sample(list(self.logs), dice.randint(1, len(self.logs)))
        steps = {tp: self.index.positions[tp] + dice.randrange(-back, 8) for tp in partitions}
        self.apply({tp: min(end, self.ends[tp]) for tp, end in steps.items()}, back)

    @rule()
    def apply_all(self) -> None:
        self.apply(self.ends)

    @rule()
    def write_a_snapshot(self) -> None:
        asyncio.run(self.snapshots.write(self.index))

    @rule()
    def restart(self) -> None:
        """From the last snapshot, however old, or from nothing; then on to where the log is."""
        restored = asyncio.run(self.snapshots.restore(new_index()))
        assert self.snapshots.refused == {}
        self.index = restored or new_index()
        self.sealings = []
        # Behind what is compacted, the states on the way are nobody's promise.
        self.apply(self.compacted)

    @precondition(lambda self: len(self.sealings) < 3)
    @rule(of=targets, with_segments=st.booleans())
    def begin_a_rebuild(self, of: Target, with_segments: bool) -> None:
        """Beside those under way: of what they left."""
        self.sealings.append((of, self.index.seal(of, None if with_segments else [])))

    @precondition(lambda self: self.sealings)
    @rule(kind=st.sampled_from(["Flat", "IVF2,SQ8"]), number=st.integers(0, 2))
    def swap_in_what_was_rebuilt(self, kind: str, number: int) -> None:
        of, sealing = self.sealings.pop(number % len(self.sealings))
        segment = asyncio.run(built(self.index, of, sealing, self.spill, kind))
        self.index.swap(of, sealing, segment)

    @precondition(lambda self: self.sealings)
    @rule(number=st.integers(0, 2))
    def give_a_rebuild_up(self, number: int) -> None:
        self.index.give_up(*self.sealings.pop(number % len(self.sealings)))

    # What must hold

    def model(self, of: Target) -> dict[str, tuple[Vectors, str | None, Mapping[str, Any]]]:
        items: dict[str, tuple[Vectors, str | None, Mapping[str, Any]]] = {}
        for partition, log in self.logs.items():
            if partition.topic != NAMES.embeddings(of):
                continue
            for record in log:
                assert record.key is not None
                own = MURMUR2(record.key, PARTITIONS) == partition.partition
                if own and record.offset < self.index.positions[partition]:
                    items.pop(record.key.decode(), None)
                    if record.value not in (None, *BAD_VALUES):
                        found = read_embedding(SPACE, record)
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
        hits = self.index.view.search([query])[0]
        assert pairs(hits) == expected
        assert [hit.rank for hit in hits] == list(range(offset + 1, offset + 1 + len(hits)))
        assert self.index.count(of) == self.index.view.count(of) == len(live)
        # Through the segments' indexes: as many, all of them live, each with its exact score.
        [near] = self.index.view.search([query], recall=0.5)
        everything = VectorQuery(of, vector, 10_000, min_score=min_score)
        assert len(near) == len(expected) or min_score is not None
        assert set(pairs(near)) <= set(brute_force(model, everything))
        # The view is kept: whatever comes, it must answer as it did.
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

    @rule(seed=st.integers(0, 2**16))
    def replay_from_the_beginning(self, seed: int) -> None:
        """A node that starts now comes to the same state, in whatever batches."""
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
            while self.sealings:
                self.index.give_up(*self.sealings.pop())
            self.apply_all()
            self.replay_from_the_beginning(0)
            assert self.index.verify()
            for table in self.index._tables.values():
                assert len(table.chunks) <= 1 + 2 * len(table) / 5 + 2


TestFold = Fold.TestCase
TestFold.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
