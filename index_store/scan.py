"""Searching one view's parts: nominate in float32, answer by the exact score.

An exact answer is complete when its worst winner's exact score is above what any row left out
could have; where it is not (near ties), the rows within the slack are all nominated in a second
scan. An approximate one takes what the parts' indexes nominate, and turns to the exact one when
they found fewer rows than there are.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from contracts.hits import VectorQuery
from contracts.score import NOMINATION_SLACK, exact_scores
from index_store.parts import Part, Selection
from index_store.rows import Numbers

# A little more than k is nominated at once, so that near ties seldom need a second scan.
_SPARE = 16
_SPARE_PER_WANTED = 8
# With collapse, several rows may stand for one item.
_ROWS_PER_ITEM = 4
_GROWTH = 8
# Thousands may tie: bounds what is converted to float64 at a time (32 MB at 512 dimensions).
_SCORED_AT_ONCE = 8192

# Score negated, id, part, row: sorts in the order of an answer.
Winner = tuple[float, str, int, int]


class Scan:
    """Queries of one target and filter over its parts: one pass for all of them."""

    def __init__(
        self, parts: Sequence[Part], selections: Sequence[Selection], queries: Sequence[VectorQuery]
    ) -> None:
        self._parts = parts
        self._selections = selections
        self._queries = queries
        # A place is a row's number over all parts: its part's start and its row there.
        self._starts = [0, *accumulate(part.capacity for part in parts)]
        self._live = sum(selection.count for selection in selections)
        self._wide = np.array([query.vector for query in queries], np.float32)

    def exact(self) -> Iterator[list[Winner]]:
        """The winners of each query, best first, at most k + offset."""
        most = max(_enough(query) for query in self._queries)
        scores, places = self._nominated(self._wide, most)
        for n, query in enumerate(self._queries):
            yield self._exact(n, query, scores[n], places[n], min(_enough(query), most))

    def approximate(self, recall: float) -> Iterator[list[Winner]]:
        """The same, reaching `recall` on average."""
        most = max(_enough(query) for query in self._queries)
        scores, places = self._approximated(most, recall)
        for n, query in enumerate(self._queries):
            found = _hopeful(query, scores[n], places[n])
            winners = self._winners(query, found)
            # Too few: the lists read held too few of the rows there are, whose scores say nothing
            # of what the others hold; or (with collapse) too few items.
            wanted = min(query.k + query.offset, self._live)
            short = len(found) < wanted
            if query.collapse and len(winners) < wanted:
                short = short or not self._below_min_score(query, found)
            if short:
                [winners] = Scan(self._parts, self._selections, [query]).exact()
            yield winners

    def _below_min_score(self, query: VectorQuery, found: NDArray[np.int64]) -> bool:
        """Whether what was found went below min_score already, so that more would too.

        Else one that nothing reaches would be a reason to look again at every search.
        """
        if query.min_score is None:
            return False
        scores, _, _ = self._scored(query, found)
        return bool(scores.min() < query.min_score)

    def _exact(
        self,
        n: int,
        query: VectorQuery,
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
                return self._winners(query, self._reaching(self._wide[n], bar - NOMINATION_SLACK))
            # Too few items among the rows (collapse): more rows.
            most *= _GROWTH
            [scores], [places] = self._nominated(self._wide[n : n + 1], most)

    def _nominated(
        self, queries: NDArray[np.float32], most: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Every part's best for each query, side by side: float32 scores, and places."""
        scores = [np.empty((len(queries), 0), np.float32)]
        places = [np.empty((len(queries), 0), np.int64)]
        for part, selection, start in self._each():
            found, numbers = part.nominate(queries, most, selection)
            scores.append(found)
            places.append(numbers + start)
        return np.hstack(scores), np.hstack(places)

    def _approximated(
        self, most: int, recall: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The same of what the parts' indexes nominate; places left over are -1."""
        scores, places = [], []
        for part, selection, start in self._each():
            found, numbers = part.approximate(self._wide, most, selection, recall)
            if start:
                numbers[numbers >= 0] += start
            scores.append(found)
            places.append(numbers)
        if len(places) == 1:
            return scores[0], places[0]
        none = len(self._wide), 0
        return (
            np.concatenate([np.empty(none, np.float32), *scores], axis=1),
            np.concatenate([np.empty(none, np.int64), *places], axis=1),
        )

    def _each(self) -> Iterator[tuple[Part, Selection, int]]:
        for part, selection, start in zip(
            self._parts, self._selections, self._starts, strict=False
        ):
            if selection.count:
                yield part, selection, start

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
        for part, selection, start in self._each():
            found.append(part.reaching(query, floor, selection) + start)
        return np.concatenate(found)

    def _winners(self, query: VectorQuery, places: NDArray[np.int64]) -> list[Winner]:
        """The best of `places` by exact score, then id; at most k + offset."""
        wanted = query.k + query.offset
        scores, parts, rows = self._scored(query, places)
        floor = -np.inf if query.min_score is None else query.min_score
        if not query.collapse and len(scores) > wanted:
            # Python sees only what can win, ties of the last place included.
            floor = max(floor, np.partition(scores, -wanted)[-wanted])
        kept = np.flatnonzero(scores >= floor)
        found = sorted(
            (-score, self._parts[part].rows.ids[row], part, row)
            for score, part, row in zip(
                scores[kept].tolist(), parts[kept].tolist(), rows[kept].tolist(), strict=True
            )
        )
        if query.collapse:
            return list(islice(self._collapsed(found), wanted))
        return found[:wanted]

    def _scored(
        self, query: VectorQuery, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], Numbers, Numbers]:
        """Exact scores, parts and rows of `places`, in an order of their own."""
        if len(places) > _SCORED_AT_ONCE:
            some = np.split(places, range(_SCORED_AT_ONCE, len(places), _SCORED_AT_ONCE))
            found = zip(*(self._scored(query, one) for one in some), strict=True)
            scores, parts, rows = map(np.concatenate, found)
            return scores, parts, rows
        if len(self._parts) == 1:
            # Most of the time; what is below would take as long as the scores.
            scores = exact_scores(self._parts[0].rows.vectors[places], query.vector)
            return scores, np.zeros(len(places), np.intp), places
        rows = np.sort(places)
        ends = np.searchsorted(rows, self._starts).tolist()
        vectors = np.empty((len(rows), self._wide.shape[1]), np.float16)
        parts = np.empty(len(rows), np.intp)
        for n, part in enumerate(self._parts):
            here = slice(ends[n], ends[n + 1])
            if ends[n] < ends[n + 1]:
                rows[here] -= self._starts[n]
                parts[here] = n
                vectors[here] = part.rows.vectors[rows[here]]
        return exact_scores(vectors, query.vector), parts, rows

    def _collapsed(self, ordered: Sequence[Winner]) -> Iterator[Winner]:
        """The best of each item; one without `item` stands for itself."""
        seen: set[str] = set()
        for winner in ordered:
            item = self._parts[winner[2]].rows.items[winner[3]]
            if item not in seen:
                yield winner
            if item is not None:
                seen.add(item)


def _hopeful(
    query: VectorQuery, scores: NDArray[np.float32], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the nominated whose exact score may put them in the answer."""
    wanted = query.k + query.offset
    if query.collapse or len(places) <= wanted:
        return places[places >= 0]
    # Both scores err by the slack; with too few nominees the bar is where nobody is.
    bar = np.partition(scores, -wanted)[-wanted] - 2 * NOMINATION_SLACK
    hopeful: NDArray[np.int64] = places[(scores >= bar) & (places >= 0)]
    return hopeful


def _enough(query: VectorQuery) -> int:
    """How many rows to nominate at first."""
    wanted = query.k + query.offset
    rows = wanted * _ROWS_PER_ITEM if query.collapse else wanted
    return rows + rows // _SPARE_PER_WANTED + _SPARE
