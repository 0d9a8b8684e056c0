"""What a search works on: one immutable state of the index, and the exact search over it.

Every scan only nominates, in float32; the nominated are re-scored by contracts.score. A result is
complete when the worst re-scored winner beats the best that any row left out could have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.hits import Hit, VectorQuery
from contracts.ports import AsOf
from contracts.records import RecordPosition, TopicPartition
from contracts.score import NOMINATION_SLACK, exact_scores
from contracts.topics import Names, Target
from index_store.rows import ChunkView, Row

# A little more than k is nominated at once, so that near ties need no second scan.
_SPARE = 16


@dataclass(frozen=True, slots=True)
class Scored:
    """One re-scored row."""

    score: float
    row: Row
    view: ChunkView
    number: int


@dataclass(frozen=True, slots=True)
class IndexView:
    """The index at `positions`; nothing in it ever changes."""

    names: Names
    chunks: Mapping[Target, tuple[ChunkView, ...]]
    positions: Mapping[TopicPartition, int]
    digests: Mapping[TopicPartition, int]
    as_of: AsOf

    def count(self, target: Target) -> int:
        return sum(view.live for view in self.chunks[target])

    def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """Exact answers, in the order of `queries`: score descending, then id ascending."""
        return [self._search(query) for query in queries]

    def _search(self, query: VectorQuery) -> list[Hit]:
        wanted = query.k + query.offset
        views = self.chunks[query.target]
        total = sum(view.live for view in views)
        most = min(total, wanted + _SPARE)
        while True:
            found, ceiling = self._candidates(views, query, most)
            kept = _collapsed(found) if query.collapse else found
            enough = len(kept) >= wanted and kept[wanted - 1].score > ceiling
            below = query.min_score is not None and ceiling < query.min_score
            if most >= total or enough or below:
                break
            most = min(total, most * 4)
        if query.min_score is not None:
            kept = [one for one in kept if one.score >= query.min_score]
        page = kept[query.offset : wanted]
        return [
            self._hit(query, one, rank) for rank, one in enumerate(page, start=query.offset + 1)
        ]

    def _candidates(
        self, views: Sequence[ChunkView], query: VectorQuery, most: int
    ) -> tuple[list[Scored], float]:
        """The `most` best of each chunk re-scored, sorted; and what no other row can exceed."""
        found: list[Scored] = []
        ceiling = -np.inf
        wide = query.vector.astype(np.float32)[None]
        for view in views:
            [(numbers, fast)] = view.nominate(wide, most)
            if not len(numbers):
                continue
            if len(numbers) < view.live:
                ceiling = max(ceiling, float(fast.min()) + NOMINATION_SLACK)
            scores = exact_scores(view.chunk.vectors[numbers], query.vector)
            found += [
                Scored(float(score), view.chunk.rows[number], view, int(number))
                for score, number in zip(scores, numbers, strict=True)
            ]
        found.sort(key=lambda one: (-one.score, one.row.id))
        return found, ceiling

    def _hit(self, query: VectorQuery, one: Scored, rank: int) -> Hit:
        vector = one.view.chunk.vectors[one.number] if query.with_vector else None
        return hit_of(self.names, query.target, one.row, rank, one.score, vector)


def hit_of(
    names: Names,
    target: Target,
    row: Row,
    rank: int,
    score: float,
    vector: "np.ndarray[tuple[int], np.dtype[np.float16]] | None",
) -> Hit:
    """A row as a hit; its source names the content topic."""
    return Hit(
        target,
        row.id,
        rank,
        score,
        RecordPosition(names.content(target), row.source.partition, row.source.offset),
        row.item,
        row.text,
        row.metadata,
        vector,
    )


def _collapsed(found: Sequence[Scored]) -> list[Scored]:
    """The best of each item; one without `item` stands for itself."""
    seen: set[str] = set()
    kept = []
    for one in found:
        if one.row.item is not None:
            if one.row.item in seen:
                continue
            seen.add(one.row.item)
        kept.append(one)
    return kept
