"""The view: one immutable state of the index, which a search reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import orjson

from contracts.events.record import RecordPosition, TopicPartition
from contracts.filters.nodes import Filter
from contracts.filters.warnings import FilterWarning, warnings_of
from contracts.ports.hit import Hit, VectorQuery
from contracts.ports.search import Answer
from contracts.topics import Names, Target
from contracts.wire.as_of import AsOf
from index_store import digest
from index_store.metadata.segment_fields import OnRowsRead
from index_store.search.scan import RankedRow, SegmentSearch
from index_store.segment.reader import SegmentReader, Selection
from index_store.segment.rows import Numbers, Origin, Rows

# The newest content record seen of a partition: its origin and its offset.
HighestSource = tuple[Origin, int]


@dataclass(frozen=True, slots=True)
class IndexView:
    """The index at `positions`; nothing in it ever changes.

    `readers` are those of each target's segments. `digests` are those of the embeddings partitions,
    and `highest` the newest content records that they show.
    """

    names: Names
    readers: Mapping[Target, tuple[SegmentReader, ...]]
    positions: Mapping[TopicPartition, int]
    digests: Mapping[TopicPartition, int]
    highest: Mapping[TopicPartition, HighestSource]
    as_of: AsOf

    def count(self, target: Target) -> int:
        """Return the number of live items."""
        return sum(reader.live for reader in self.readers[target])

    def search(
        self, queries: Sequence[VectorQuery], *, recall: float | None = None
    ) -> list[list[Hit]]:
        """Return the hits of each query, as `answers` finds them."""
        return [list(answer.hits) for answer in self.answers(queries, recall=recall)]

    def answers(
        self,
        queries: Sequence[VectorQuery],
        *,
        recall: float | None = None,
        reads: OnRowsRead = lambda rows: None,
    ) -> list[Answer]:
        """Return the answer of each query, its hits by score descending, then id ascending.

        Queries that are `exact` are answered exactly, the others with about this recall (None:
        exactly). Hits are made when they are read. `reads` is called with the number of rows that
        had to be read for a filter.
        """
        answers = self.answers_or_none(queries, recall=recall, reads=reads, patient=True)
        return [answer for answer in answers if answer is not None]

    def answers_or_none(
        self,
        queries: Sequence[VectorQuery],
        *,
        recall: float | None,
        reads: OnRowsRead,
        patient: bool,
    ) -> list[Answer | None]:
        """Answer as `answers` does; unless `patient`, with None for what takes an exact scan."""
        answers: dict[int, Answer | None] = {}
        for (target, _, exact), numbers in self._alike(queries).items():
            readers = self.readers[target]
            asked = [queries[n] for n in numbers]
            condition = asked[0].filter
            selections = [reader.select(condition, reads) for reader in readers]
            warnings = _warnings(condition, selections)
            scan = SegmentSearch(readers, selections, asked)
            found: Iterator[list[RankedRow] | None] = (
                scan.exact()
                if exact or recall is None
                else scan.approximate(recall, patient=patient)
            )
            for n, winners in zip(numbers, found, strict=True):
                if winners is None:
                    answers[n] = None
                else:
                    hits = LazyHits(self, queries[n], winners)
                    answers[n] = Answer(hits, self.as_of, warnings)
        return [answers[n] for n in range(len(queries))]

    def warnings(
        self, target: Target, condition: Filter, reads: OnRowsRead = lambda rows: None
    ) -> Sequence[FilterWarning]:
        """Return the warnings of a filter: what it asks for that no live item has."""
        return _warnings(
            condition, [reader.select(condition, reads) for reader in self.readers[target]]
        )

    def needs_scan(self, target: Target, condition: Filter) -> bool:
        """Return whether a filter needs rows to be read, as far as is known without waiting."""
        return any(reader.needs_scan(condition) for reader in self.readers[target])

    def cost_ms(self, query: VectorQuery, recall: float) -> float:
        """Estimate the milliseconds of an approximate search; infinite for a new filter."""
        return sum(reader.cost_ms(recall, query.filter) for reader in self.readers[query.target])

    def _alike(
        self, queries: Sequence[VectorQuery]
    ) -> dict[tuple[Target, object, bool], list[int]]:
        """Group the positions of queries that are searched in one pass."""
        alike: dict[tuple[Target, object, bool], list[int]] = {}
        for n, query in enumerate(queries):
            condition = None if query.filter is None else query.filter.key
            alike.setdefault((query.target, condition, query.exact), []).append(n)
        return alike

    def rows(self, target: Target) -> Iterator[tuple[Rows, Numbers]]:
        """Yield the live rows of each segment: columns, and the numbers of the rows in them."""
        for reader in self.readers[target]:
            yield reader.rows, reader.numbers()

    def digests_by_partition(self) -> list[dict[str, object]]:
        """Return the digest of each partition with the offset that it belongs to."""
        return [
            {
                "topic": partition.topic,
                "partition": partition.partition,
                "offset": position,
                "digest": digest.digest_text(self.digests[partition]),
            }
            for partition, position in sorted(self.positions.items())
        ]

    def recomputed_digests(self) -> dict[TopicPartition, int]:
        """Compute the digests from the rows; they equal `digests` unless memory went bad."""
        found = dict.fromkeys(self.positions, 0)
        for target in self.readers:
            topic = self.names.embeddings(target)
            for rows, numbers in self.rows(target):
                for n in numbers.tolist():
                    hashed = digest.item_hash(
                        target,
                        rows.ids[n],
                        (*rows.origins[n], int(rows.offsets[n])),
                        rows.vectors[n].tobytes(),
                        rows.items[n],
                        rows.texts[n],
                        rows.metadata[n],
                    )
                    partition = TopicPartition(topic, int(rows.partitions[n]))
                    change = digest.sum_of_hashes(digest.stack_hashes([hashed]))
                    found[partition] = digest.add_digests(found[partition], change)
        return found


class LazyHits(Sequence[Hit]):
    """The hits of one query, each made when it is read: a thousand may have long texts."""

    __slots__ = ("_query", "_readers", "_topic", "_winners")

    def __init__(self, view: IndexView, query: VectorQuery, winners: Sequence[RankedRow]) -> None:
        self._readers = view.readers[query.target]
        self._topic = view.names.content(query.target)
        self._query = query
        self._winners = winners[query.offset :]

    def __len__(self) -> int:
        return len(self._winners)

    @overload
    def __getitem__(self, n: int) -> Hit: ...
    @overload
    def __getitem__(self, n: slice) -> Sequence[Hit]: ...
    def __getitem__(self, n: int | slice) -> Hit | Sequence[Hit]:
        if isinstance(n, slice):
            return [self[one] for one in range(*n.indices(len(self)))]
        query, position = self._query, range(len(self))[n]
        negated, item_id, segment, row = self._winners[position]
        return _hit(
            query.target,
            self._topic,
            item_id,
            self._readers[segment].rows,
            row,
            query.offset + position + 1,
            -negated,
            query.with_vector,
        )

    def __iter__(self) -> Iterator[Hit]:
        query, readers, topic = self._query, self._readers, self._topic
        target, with_vector = query.target, query.with_vector
        for rank, (negated, item_id, segment, row) in enumerate(self._winners, query.offset + 1):
            yield _hit(
                target, topic, item_id, readers[segment].rows, row, rank, -negated, with_vector
            )

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def _warnings(condition: Filter | None, selections: Sequence[Selection]) -> Sequence[FilterWarning]:
    if condition is None:
        return ()
    kinds: dict[str, set[str]] = {}
    for selection in selections:
        for name, found in selection.types.items():
            kinds.setdefault(name, set()).update(found)
    return warnings_of(condition, kinds)


def row_hit(names: Names, target: Target, rows: Rows, number: int) -> Hit:
    """Return a row as a hit, with its vector; rank and score are 0."""
    content, item_id = names.content(target), rows.ids[number]
    return _hit(target, content, item_id, rows, number, 0, 0.0, True)


def _hit(
    target: Target,
    content: str,
    item_id: str,
    rows: Rows,
    number: int,
    rank: int,
    score: float,
    with_vector: bool,
) -> Hit:
    """Return a row as a hit; its source names the content topic."""
    metadata = rows.metadata[number]
    return Hit(
        target,
        item_id,
        rank,
        score,
        RecordPosition(content, rows.origins[number][1], rows.offsets.item(number)),
        rows.items[number],
        rows.texts[number],
        None if metadata is None else orjson.loads(metadata),
        # Copy it: a numpy view would keep the whole segment in memory.
        rows.vectors[number].copy() if with_vector else None,
    )
