"""Random histories against a dictionary: the fold, the exact search, the digest, snapshots.

The model is the plainest reading of the log: the last record of a key wins, and a search scores
every live item with float64.
"""

import asyncio
import random
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contracts.embedding import Embedding, encode_value
from contracts.hits import Hit, VectorQuery
from contracts.memory import MemoryBlobs
from contracts.partitioning import partitioner
from contracts.records import Fetched, Record, Source, TopicPartition
from contracts.score import unit
from contracts.space import Space
from contracts.topics import TARGETS, Names, Target
from index_store.index import Index
from index_store.snapshots import Snapshots
from index_store.view import IndexView

SPACE = Space("fold-v1", "m", "1", "p", 4)
NAMES = Names("t.", SPACE.name)
PARTITIONS = 3
MURMUR2 = partitioner("murmur2")
IDS = [f"id-{n}" for n in range(12)]
TOPIC_IDS = {NAMES.embeddings(target): f"topic-{target}" for target in TARGETS}
# Few distinct vectors, so that equal scores are common and the order by id matters.
VECTORS = [unit(v) for v in np.random.default_rng(3).standard_normal((6, 4))]


def new_index() -> Index:
    counts = dict.fromkeys(TARGETS, PARTITIONS)
    return Index(SPACE, NAMES, counts, TOPIC_IDS, chunk_rows=5)


def brute_force(model: dict[str, Embedding], query: VectorQuery) -> list[tuple[str, float]]:
    narrow = query.vector.astype(np.float64)
    scored = [
        (-float(sum((e.vector.astype(np.float64) * narrow).tolist())), e.id)
        for e in model.values()
        if e.vector is not None
    ]
    if query.min_score is not None:
        scored = [pair for pair in scored if -pair[0] >= query.min_score]
    ordered = sorted(scored)
    if query.collapse:
        seen: set[str] = set()
        kept = []
        for score, item_id in ordered:
            item = model[item_id].item
            if item is None or item not in seen:
                kept.append((score, item_id))
            if item is not None:
                seen.add(item)
        ordered = kept
    page = ordered[query.offset : query.offset + query.k]
    return [(item_id, -score) for score, item_id in page]


def pairs(hits: list[Hit]) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


class Fold(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.logs: dict[TopicPartition, list[Record]] = {
            TopicPartition(NAMES.embeddings(t), n): [] for t in TARGETS for n in range(PARTITIONS)
        }
        self.model: dict[Target, dict[str, Embedding]] = {target: {} for target in TARGETS}
        self.index = new_index()
        self.blobs = MemoryBlobs()
        self.snapshots = Snapshots(self.blobs, "fold-v1/0/0/", kept=2)
        self.held: list[tuple[IndexView, VectorQuery, list[tuple[str, float]]]] = []

    def append(self, target: Target, item_id: str, value: bytes | None, partition: int) -> None:
        log = self.logs[TopicPartition(NAMES.embeddings(target), partition)]
        source = Source("content", partition, len(log))
        log.append(
            Record(
                NAMES.embeddings(target),
                partition,
                len(log),
                len(log),
                item_id.encode(),
                value,
                [("source", source.encode()), ("appended", b"1")],
            )
        )

    @rule(
        of=st.sampled_from(TARGETS),
        item_id=st.sampled_from(IDS),
        vector=st.sampled_from(VECTORS),
        item=st.sampled_from([None, "a", "b"]),
        metadata=st.sampled_from([{}, {"n": 1}, {"n": 2, "b": [True]}]),
    )
    def put(
        self, of: Target, item_id: str, vector: Any, item: str | None, metadata: dict[str, Any]
    ) -> None:
        partition = MURMUR2(item_id.encode(), PARTITIONS)
        log = self.logs[TopicPartition(NAMES.embeddings(of), partition)]
        source = Source("content", partition, len(log))
        self.append(
            of,
            item_id,
            encode_value(SPACE, vector, item=item, text=item_id, metadata=metadata),
            partition,
        )
        self.model[of][item_id] = Embedding(item_id, source, 1, vector, item, item_id, metadata)

    @rule(of=st.sampled_from(TARGETS), item_id=st.sampled_from(IDS))
    def delete(self, of: Target, item_id: str) -> None:
        self.append(of, item_id, None, MURMUR2(item_id.encode(), PARTITIONS))
        self.model[of].pop(item_id, None)

    @rule(of=st.sampled_from(TARGETS), item_id=st.sampled_from(IDS))
    def put_in_a_wrong_partition(self, of: Target, item_id: str) -> None:
        wrong = (MURMUR2(item_id.encode(), PARTITIONS) + 1) % PARTITIONS
        self.append(of, item_id, encode_value(SPACE, VECTORS[0]), wrong)

    @rule(of=st.sampled_from(TARGETS), item_id=st.sampled_from(IDS), other=st.booleans())
    def put_what_cannot_be_read(self, of: Target, item_id: str, other: bool) -> None:
        """Takes the item out: compaction keeps this record and not the good one before it."""
        space = Space("fold-v1", "m", "2", "p", 4)
        value = encode_value(space, VECTORS[0]) if other else b"TLE\x01 torn"
        self.append(of, item_id, value, MURMUR2(item_id.encode(), PARTITIONS))
        self.model[of].pop(item_id, None)

    @rule(seed=st.integers(0, 2**16), repeat=st.booleans())
    def apply_some(self, seed: int, repeat: bool) -> None:
        """Batches of random sizes from the partitions in random order, repeats included."""
        dice = random.Random(seed)
        partitions = list(self.logs)
        dice.shuffle(partitions)
        batch = Fetched()
        for partition in partitions:
            log, position = self.logs[partition], self.index.positions[partition]
            start = max(0, position - dice.randrange(3)) if repeat else position
            end = position + dice.randrange(6)
            if log[start:end]:
                batch.records[partition] = log[start:end]
                batch.positions[partition] = max(position, min(end, len(log)))
        self.index.apply(batch)

    @rule(
        of=st.sampled_from(TARGETS),
        vector=st.sampled_from(VECTORS),
        k=st.integers(1, 8),
        offset=st.integers(0, 3),
        min_score=st.sampled_from([None, 0.0, 0.5]),
        collapse=st.booleans(),
    )
    def search_what_was_applied(
        self,
        of: Target,
        vector: Any,
        k: int,
        offset: int,
        min_score: float | None,
        collapse: bool,
    ) -> None:
        self.apply_everything()
        query = VectorQuery(of, vector, k, offset, min_score=min_score, collapse=collapse)
        expected = brute_force(self.model[of], query)
        hits = self.index.view.search([query])[0]
        assert pairs(hits) == expected
        assert [hit.rank for hit in hits] == list(range(offset + 1, offset + 1 + len(hits)))
        # The view is kept: whatever comes, it must answer as it did.
        self.held = [*self.held[-3:], (self.index.view, query, expected)]

    @rule()
    def snapshot_and_restore(self) -> None:
        asyncio.run(self.snapshots.write(self.index))
        restored = asyncio.run(self.snapshots.restore(new_index()))
        assert restored is not None
        assert restored.digests() == self.index.digests()
        assert restored.positions == self.index.positions
        self.index = restored

    @rule()
    def replay_from_the_beginning(self) -> None:
        self.apply_everything()
        fresh = new_index()
        batch = Fetched(
            {p: log for p, log in self.logs.items() if log},
            {p: len(log) for p, log in self.logs.items()},
        )
        fresh.apply(batch)
        assert fresh.digests() == self.index.digests()

    def apply_everything(self) -> None:
        batch = Fetched()
        for partition, log in self.logs.items():
            rest = log[self.index.positions[partition] :]
            if rest:
                batch.records[partition] = rest
                batch.positions[partition] = len(log)
        self.index.apply(batch)
        for target in TARGETS:
            assert self.index.count(target) == len(self.model[target])

    @invariant()
    def held_views_never_change(self) -> None:
        for view, query, expected in getattr(self, "held", []):
            assert pairs(view.search([query])[0]) == expected

    def teardown(self) -> None:
        if hasattr(self, "index"):
            assert self.index.verify()


TestFold = Fold.TestCase
TestFold.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
