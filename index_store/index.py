"""The index state: a fold over the embeddings topics (invariant 4) and the view that readers get.

Applying is what compaction is: the last appended record of a key wins, and a record below the
state's position is a repeat that changes nothing. So the state is a function of the offsets alone,
whatever the order in which partitions interleaved.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from contracts.embedding import Embedding, read_embedding
from contracts.errors import RejectedRecord, SpaceMismatch, TidelensError
from contracts.hits import Hit
from contracts.partitioning import Partitioner, partitioner
from contracts.ports import Applied, AsOf
from contracts.records import Fetched, Record, TopicPartition
from contracts.score import Vectors
from contracts.space import Space
from contracts.topics import TARGETS, Names, Target
from index_store import digest
from index_store.rows import CHUNK_ROWS, Row, Table
from index_store.view import IndexView, hit_of

_MURMUR2 = partitioner("murmur2")
_REASONS_MAX = 10_000


class Index:
    """The writer; one thread applies, any thread reads `view`.

    `partitions` counts each target's partitions, `topic_ids` are the embeddings topics'.
    """

    def __init__(
        self,
        space: Space,
        names: Names,
        partitions: Mapping[Target, int],
        topic_ids: Mapping[str, str],
        *,
        partition_of: Partitioner = _MURMUR2,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self.space = space
        self.names = names
        self.partitions = dict(partitions)
        self.topic_ids = dict(topic_ids)
        self.epoch = _epoch(topic_ids)
        self.partition_of = partition_of
        self.chunk_rows = chunk_rows
        self.tables = {target: Table(space.dim, chunk_rows) for target in TARGETS}
        self._targets: dict[TopicPartition, Target] = {
            TopicPartition(names.embeddings(target), number): target
            for target in TARGETS
            for number in range(partitions[target])
        }
        self.positions: dict[TopicPartition, int] = dict.fromkeys(self._targets, 0)
        self.totals: dict[TopicPartition, int] = dict.fromkeys(self._targets, 0)
        self.sources: dict[TopicPartition, int] = dict.fromkeys(self._targets, -1)
        self.caught_up_at: dict[TopicPartition, float] = {}
        self._reasons: OrderedDict[tuple[Target, int, int], str] = OrderedDict()
        self.rejected: list[tuple[Record, TidelensError]] = []
        self.misplaced = 0
        self.last_appended_ms: list[int] = []
        self.view = self._make_view()

    def apply(self, batch: Fetched) -> list[Applied]:
        """Fold a batch in and make the new view current; what changed, for each target.

        Unreadable records are left in `rejected`, those of foreign keys are counted in
        `misplaced`; neither changes anything, which is the same on every replay.
        """
        self.rejected = []
        self.last_appended_ms = []
        applied = []
        last: dict[Target, dict[str, tuple[Embedding, TopicPartition]]] = {}
        for partition, records in batch.records.items():
            target = self._targets[partition]
            self._read(target, partition, records, last.setdefault(target, {}))
        for target, newest in last.items():
            if newest:
                applied.append(self._fold(target, newest))
        for partition, position in batch.positions.items():
            self.positions[partition] = max(self.positions[partition], position)
        for table in self.tables.values():
            table.merge()
        # One assignment: a reader has either the old state or the new one, whole.
        self.view = self._make_view()
        return applied

    def _read(
        self,
        target: Target,
        partition: TopicPartition,
        records: Sequence[Record],
        newest: dict[str, tuple[Embedding, TopicPartition]],
    ) -> None:
        count, position = self.partitions[target], self.positions[partition]
        for record in records:
            if record.offset < position:
                continue
            if self.partition_of(record.key or b"", count) != partition.partition:
                self.misplaced += 1
                continue
            try:
                embedding = read_embedding(self.space, record)
            except (RejectedRecord, SpaceMismatch) as error:
                self.rejected.append((record, error))
                continue
            newest[embedding.id] = (embedding, partition)
            self.sources[partition] = max(self.sources[partition], embedding.source.offset)
            if embedding.reason is not None:
                self._remember(target, embedding)

    def _fold(
        self, target: Target, newest: Mapping[str, tuple[Embedding, TopicPartition]]
    ) -> Applied:
        table = self.tables[target]
        rows: list[Row] = []
        vectors: list[Vectors] = []
        removed: list[str] = []
        for embedding, partition in newest.values():
            old = table.remove(embedding.id)
            if old is not None:
                self.totals[partition] = digest.subtract(self.totals[partition], old.hash)
            if embedding.vector is None:
                if old is not None:
                    removed.append(embedding.id)
                continue
            row = self._row(target, embedding, partition)
            self.totals[partition] = digest.add(self.totals[partition], row.hash)
            rows.append(row)
            vectors.append(embedding.vector)
            self.last_appended_ms.append(embedding.appended_ms)
        stacked = np.stack(vectors) if vectors else np.empty((0, self.space.dim), np.float16)
        table.put(rows, stacked)
        return Applied(target, [row.id for row in rows], stacked, removed)

    @staticmethod
    def _row(target: Target, embedding: Embedding, partition: TopicPartition) -> Row:
        assert embedding.vector is not None
        metadata = embedding.metadata or None
        return Row(
            embedding.id,
            embedding.item,
            embedding.text,
            metadata,
            embedding.source,
            embedding.appended_ms,
            partition.partition,
            digest.item_hash(
                target,
                embedding.id,
                embedding.source,
                embedding.vector.tobytes(),
                embedding.item,
                embedding.text,
                metadata,
            ),
        )

    def _remember(self, target: Target, embedding: Embedding) -> None:
        source = embedding.source
        self._reasons[target, source.partition, source.offset] = embedding.reason or ""
        while len(self._reasons) > _REASONS_MAX:
            self._reasons.popitem(last=False)

    def restore(
        self,
        target: Target,
        rows: Sequence[Row],
        vectors: Vectors,
    ) -> None:
        """Put rows of a snapshot into an empty table; `finish_restore` makes them visible."""
        self.tables[target].put(rows, vectors)
        for row in rows:
            partition = TopicPartition(self.names.embeddings(target), row.partition)
            self.totals[partition] = digest.add(self.totals[partition], row.hash)

    def finish_restore(
        self,
        positions: Mapping[TopicPartition, int],
        sources: Mapping[TopicPartition, int],
        caught_up_at: Mapping[TopicPartition, float],
    ) -> None:
        self.positions = dict(positions)
        self.sources = dict(sources)
        self.caught_up_at = dict(caught_up_at)
        self.view = self._make_view()

    def caught_up(self, partition: TopicPartition, at: float) -> None:
        """Everything that was in the log at time `at` has been seen (invariant 7)."""
        self.caught_up_at[partition] = max(at, self.caught_up_at.get(partition, at))

    def highest_source(self, target: Target, partition: int) -> int:
        key = TopicPartition(self.names.embeddings(target), partition)
        return self.sources.get(key, -1)

    def reason_of(self, target: Target, partition: int, offset: int) -> str | None:
        return self._reasons.get((target, partition, offset))

    def count(self, target: Target) -> int:
        return len(self.tables[target].places)

    def get(self, target: Target, item_id: str) -> Hit | None:
        """The item as it is now, with its vector; rank and score are 0."""
        place = self.tables[target].places.get(item_id)
        if place is None:
            return None
        row, vector = place.chunk.rows[place.row], place.chunk.vectors[place.row]
        return hit_of(self.names, target, row, 0, 0.0, vector)

    def as_of(self) -> AsOf:
        return self.view.as_of

    def digests(self) -> list[dict[str, object]]:
        """The digest of each partition with the offset it belongs to."""
        return [
            {
                "topic": partition.topic,
                "partition": partition.partition,
                "offset": position,
                "digest": digest.text_of(self.view.digests[partition]),
            }
            for partition, position in sorted(self.view.positions.items())
        ]

    def verify(self) -> bool:
        """Recompute every digest from the rows; False when memory does not hold what it should."""
        totals = dict.fromkeys(self._targets, 0)
        for target, table in self.tables.items():
            for place in table.places.values():
                row, vector = place.chunk.rows[place.row], place.chunk.vectors[place.row]
                partition = TopicPartition(self.names.embeddings(target), row.partition)
                found = digest.item_hash(
                    target,
                    row.id,
                    row.source,
                    vector.tobytes(),
                    row.item,
                    row.text,
                    row.metadata,
                )
                totals[partition] = digest.add(totals[partition], found)
        return totals == self.totals

    def _make_view(self) -> IndexView:
        offsets = {
            target: [
                self.positions[TopicPartition(self.names.embeddings(target), number)]
                for number in range(self.partitions[target])
            ]
            for target in TARGETS
        }
        return IndexView(
            self.names,
            {target: table.views() for target, table in self.tables.items()},
            dict(self.positions),
            dict(self.totals),
            AsOf(self.space.name, self.epoch, offsets),
        )


def _epoch(topic_ids: Mapping[str, str]) -> str:
    """Names the log: changes when an embeddings topic is recreated."""
    joined = "\n".join(f"{topic} {topic_ids[topic]}" for topic in sorted(topic_ids))
    return hashlib.blake2b(joined.encode(), digest_size=6).hexdigest()
