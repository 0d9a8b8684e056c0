"""What a search works on: one immutable state of the index, and the exact search over it.

Every scan only nominates, in float32; the nominated are re-scored by contracts.score. An answer
is complete when its worst winner's exact score is above what any row left out could have; where
it is not (near ties), the rows within the slack are all nominated in a second scan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice

import numpy as np
import orjson
from numpy.typing import NDArray

from contracts.hits import Hit, VectorQuery
from contracts.ports import AsOf
from contracts.records import RecordPosition, TopicPartition
from contracts.score import NOMINATION_SLACK, exact_scores
from contracts.topics import Names, Target
from index_store import digest
from index_store.rows import ChunkView, Numbers, Origin, Rows

# The newest content record seen of a partition: which topic it was in, and its offset.
Highest = tuple[Origin, int]

# A little more than k is nominated at once, so that near ties seldom need a second scan.
_SPARE = 16
_SPARE_PER_WANTED = 8
# With collapse, several rows may stand for one item.
_ROWS_PER_ITEM = 4
_GROWTH = 8

# Score negated, id, chunk, row: sorts in the order of an answer.
Winner = tuple[float, str, int, int]


@dataclass(frozen=True, slots=True)
class IndexView:
    """The index at `positions`; nothing in it ever changes.

    `digests` are sums by partition, `highest` the newest content records seen.
    """

    names: Names
    chunks: Mapping[Target, tuple[ChunkView, ...]]
    positions: Mapping[TopicPartition, int]
    digests: Mapping[TopicPartition, int]
    highest: Mapping[TopicPartition, Highest]
    as_of: AsOf

    def count(self, target: Target) -> int:
        """Live items."""
        return sum(chunk.live for chunk in self.chunks[target])

    def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """Exact answers, in the order of `queries`: score descending, then id ascending."""
        answers: dict[int, list[Hit]] = {}
        for target, chunks in self.chunks.items():
            asked = [n for n, query in enumerate(queries) if query.target == target]
            scan = Scan(chunks, [queries[n] for n in asked])
            for n, winners in zip(asked, scan.answers(), strict=True):
                answers[n] = self._hits(queries[n], winners)
        return [answers[n] for n in range(len(queries))]

    def rows(self, target: Target) -> Iterator[tuple[Rows, Numbers]]:
        """The live rows: columns, and the numbers of the rows in them."""
        for chunk in self.chunks[target]:
            yield chunk.rows, chunk.numbers()

    def digests_by_partition(self) -> list[dict[str, object]]:
        """The digest of each partition with the offset it belongs to."""
        return [
            {
                "topic": partition.topic,
                "partition": partition.partition,
                "offset": position,
                "digest": digest.text_of(self.digests[partition]),
            }
            for partition, position in sorted(self.positions.items())
        ]

    def recomputed_digests(self) -> dict[TopicPartition, int]:
        """The digests from the rows themselves; equal to `digests` unless memory went bad."""
        found = dict.fromkeys(self.positions, 0)
        for target in self.chunks:
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
                    change = digest.total(digest.stacked([hashed]))
                    found[partition] = digest.add(found[partition], change)
        return found

    def _hits(self, query: VectorQuery, winners: Sequence[Winner]) -> list[Hit]:
        chunks = self.chunks[query.target]
        return [
            hit_of(
                self.names,
                query.target,
                chunks[chunk].rows,
                row,
                rank=rank,
                score=-negated,
                with_vector=query.with_vector,
            )
            for rank, (negated, _, chunk, row) in enumerate(winners, start=1)
            if rank > query.offset
        ]


class Scan:
    """Queries of one target over its chunks: one pass for all, a second where ties demand it."""

    def __init__(self, chunks: Sequence[ChunkView], queries: Sequence[VectorQuery]) -> None:
        self._chunks = chunks
        self._queries = queries
        # A place is a row's number over all chunks: its chunk's start and its row there.
        self._starts = np.cumsum([0, *(chunk.capacity for chunk in chunks)])
        self._live = sum(chunk.live for chunk in chunks)

    def answers(self) -> Iterator[list[Winner]]:
        """The winners of each query, best first, at most k + offset."""
        if not self._queries:
            return
        wide = np.stack([query.vector for query in self._queries]).astype(np.float32)
        most = max(_enough(query) for query in self._queries)
        scores, places = self._nominated(wide, most)
        for n, query in enumerate(self._queries):
            yield self._answer(query, wide[n], scores[n], places[n], min(_enough(query), most))

    def _answer(
        self,
        query: VectorQuery,
        wide: NDArray[np.float32],
        scores: NDArray[np.float32],
        places: NDArray[np.int64],
        most: int,
    ) -> list[Winner]:
        wanted = query.k + query.offset
        while True:
            places, ceiling = self._best(scores, places, most)
            winners = self._winners(query, places)
            # What a row left out would have to reach to be in the answer.
            bar = -winners[-1][0] if len(winners) == wanted else -np.inf
            if query.min_score is not None:
                bar = max(bar, query.min_score)
            if ceiling < bar or ceiling == -np.inf:
                return winners
            if bar > -np.inf:
                return self._winners(query, self._reaching(wide, bar - NOMINATION_SLACK))
            # Too few items among the rows (collapse): more rows.
            most *= _GROWTH
            [scores], [places] = self._nominated(wide[None], most)

    def _nominated(
        self, queries: NDArray[np.float32], most: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Every chunk's best for each query, side by side: float32 scores, and places."""
        scores = [np.empty((len(queries), 0), np.float32)]
        places = [np.empty((len(queries), 0), np.int64)]
        for chunk, start in zip(self._chunks, self._starts.tolist(), strict=False):
            found, numbers = chunk.nominate(queries, most)
            scores.append(found)
            places.append(numbers + start)
        return np.hstack(scores), np.hstack(places)

    def _best(
        self, scores: NDArray[np.float32], places: NDArray[np.int64], most: int
    ) -> tuple[NDArray[np.int64], float]:
        """The `most` best places, and what the exact score of no other row can reach."""
        if self._live <= most:
            return places, -np.inf
        best = np.argpartition(scores, -most)[-most:]
        return places[best], float(scores[best].min()) + NOMINATION_SLACK

    def _reaching(self, query: NDArray[np.float32], floor: float) -> NDArray[np.int64]:
        """All places whose float32 score is above `floor`."""
        found = [np.empty(0, np.int64)]
        for chunk, start in zip(self._chunks, self._starts.tolist(), strict=False):
            found.append(chunk.reaching(query, floor) + start)
        return np.concatenate(found)

    def _winners(self, query: VectorQuery, places: NDArray[np.int64]) -> list[Winner]:
        """The best of `places` by exact score, then id; at most k + offset."""
        wanted = query.k + query.offset
        scores, chunks, rows = self._scored(query, places)
        kept = np.ones(len(scores), np.bool_)
        if query.min_score is not None:
            kept &= scores >= query.min_score
        if not query.collapse and len(scores) > wanted:
            # Python sees only what can win, ties of the last place included.
            kept &= scores >= np.partition(scores, -wanted)[-wanted]
        candidates = (
            (-score, self._chunks[chunk].rows.ids[row], chunk, row)
            for score, chunk, row in zip(
                scores[kept].tolist(), chunks[kept].tolist(), rows[kept].tolist(), strict=True
            )
        )
        if query.collapse:
            return list(islice(self._collapsed(sorted(candidates)), wanted))
        return nsmallest(wanted, candidates)

    def _scored(
        self, query: VectorQuery, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], Numbers, Numbers]:
        """Exact scores, chunks and rows of `places`; in the order of chunks."""
        places = np.sort(places)
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        rows = places - self._starts[chunks]
        scores = np.empty(len(places), np.float64)
        # By chunk, which bounds what is converted at a time when thousands tie.
        for chunk in np.unique(chunks).tolist():
            here = chunks == chunk
            vectors = self._chunks[chunk].rows.vectors
            scores[here] = exact_scores(vectors[rows[here]], query.vector)
        return scores, chunks, rows

    def _collapsed(self, ordered: Sequence[Winner]) -> Iterator[Winner]:
        """The best of each item; one without `item` stands for itself."""
        seen: set[str] = set()
        for winner in ordered:
            item = self._chunks[winner[2]].rows.items[winner[3]]
            if item not in seen:
                yield winner
            if item is not None:
                seen.add(item)


def hit_of(
    names: Names,
    target: Target,
    rows: Rows,
    number: int,
    *,
    rank: int,
    score: float,
    with_vector: bool,
) -> Hit:
    """A row as a hit; its source names the content topic."""
    metadata = rows.metadata[number]
    return Hit(
        target,
        rows.ids[number],
        rank,
        score,
        RecordPosition(names.content(target), rows.origins[number][1], int(rows.offsets[number])),
        rows.items[number],
        rows.texts[number],
        None if metadata is None else orjson.loads(metadata),
        # A copy: a view of it would keep the whole chunk in memory.
        rows.vectors[number].copy() if with_vector else None,
    )


def _enough(query: VectorQuery) -> int:
    """How many rows to nominate at first."""
    wanted = query.k + query.offset
    rows = wanted * _ROWS_PER_ITEM if query.collapse else wanted
    return rows + rows // _SPARE_PER_WANTED + _SPARE
