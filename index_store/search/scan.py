"""Searching one view's parts: nominate in float32, answer by the exact score.

An exact answer is complete when its worst winner's exact score is above what any row left out
could have; where it is not (near ties), the rows within the slack are all nominated in a second
scan. An approximate one takes what the parts' indexes nominate. Where the ranking was cut among
rows that may tie with its last winner, more are nominated, up to `TIES_MAX`; beyond that, and where
the indexes found fewer rows than there are, it turns to the exact one. Without such care pages of
equal scores would repeat some rows and leave others out: which of them are nominated is chance.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from contracts.ports.hit import VectorQuery
from contracts.score import NOMINATION_SLACK, exact_scores, tie_slack
from index_store.ann.choice import SCANNED_ROWS
from index_store.segment.reader import Nominees, SegmentReader, Selection
from index_store.segment.rows import Numbers

# A little more than k is nominated at once, so that near ties seldom need a second scan.
_SPARE = 16
_SPARE_PER_WANTED = 8
# With collapse, several rows may stand for one item.
_ROWS_PER_ITEM = 4
_GROWTH = 8
# Rows nominated beyond those that are needed, to see the end of a tie: first a few, then the most.
TIES_MAX = 2048
_TIES_AT_FIRST = 128
# So many rows are scanned in half a millisecond, which needs no lane for slow searches.
_SCANNED_AT_ONCE = SCANNED_ROWS
# Thousands may tie: bounds what is converted to float64 at a time (32 MB at 512 dimensions).
_SCORED_AT_ONCE = 8192

# Score negated, id, part, row: sorts in the order of an answer.
RankedRow = tuple[float, str, int, int]


class SegmentSearch:
    """Queries of one target and filter over its parts: one pass for all of them."""

    def __init__(
        self,
        parts: Sequence[SegmentReader],
        selections: Sequence[Selection],
        queries: Sequence[VectorQuery],
    ) -> None:
        self._parts = parts
        self._selections = selections
        self._queries = queries
        # A place is a row's number over all parts: its part's start and its row there.
        self._starts = [0, *accumulate(part.capacity for part in parts)]
        self._live = sum(selection.count for selection in selections)
        self._wide = np.array([query.vector for query in queries], np.float32)
        self._slack = tie_slack(self._wide.shape[1])

    def exact(self) -> Iterator[list[RankedRow]]:
        """The winners of each query, best first, at most k + offset."""
        most = max(_nominees_for(query) for query in self._queries)
        scores, places = self._nominated(self._wide, most)
        for n, query in enumerate(self._queries):
            yield self._exact(n, query, scores[n], places[n], min(_nominees_for(query), most))

    def approximate(
        self, recall: float, *, patient: bool = True
    ) -> Iterator[list[RankedRow] | None]:
        """Yield the winners of each query with about `recall`, exact where all rows are scanned.

        Yields None for a query that takes an exact scan of many rows, unless `patient`.
        """
        most = max(_nominees_for(query) for query in self._queries)
        found = self._approximated(self._wide, most, recall)
        may_scan = patient or self._live <= _SCANNED_AT_ONCE
        for n, query in enumerate(self._queries):
            winners, bar = self._near(n, query, found.of(n), most, recall)
            if bar is None:
                yield winners
            else:
                yield self._from(n, query, bar) if may_scan else None

    def _near(
        self, n: int, query: VectorQuery, nominees: Nominees, most: int, recall: float
    ) -> tuple[list[RankedRow], float | None]:
        """Return the winners among the nominees; and, where rows that were not nominated may belong
        to them, the score that such rows must reach, otherwise None.
        """
        wanted = min(query.k + query.offset, self._live)
        for extra in (_TIES_AT_FIRST, TIES_MAX, 0):
            found = _contenders(query, nominees.scores[0], nominees.numbers[0])
            winners, cut = self._winners(query, found), float(nominees.cuts[0])
            # Too few: the lists read held too few of the rows there are, whose scores say nothing
            # of what the others hold; or (with collapse) too few items.
            if len(found) < wanted:
                return winners, -np.inf
            if query.collapse and len(winners) < wanted:
                return winners, None if self._below_min_score(query, found) else -np.inf
            bar = _score_to_beat(query, winners)
            if cut + self._slack < bar or cut == -np.inf:
                return winners, None
            # A scan for more rows takes as long as one that leaves none out.
            if nominees.complete or not extra:
                break
            nominees = self._approximated(self._wide[n : n + 1], most + extra, recall)
        return winners, bar

    def _from(self, n: int, query: VectorQuery, bar: float) -> list[RankedRow]:
        """Find the winners by a scan of all rows; none of them scores less than `bar`."""
        if bar > -np.inf:
            return self._winners(query, self._reaching(self._wide[n], bar - NOMINATION_SLACK))
        [winners] = SegmentSearch(self._parts, self._selections, [query]).exact()
        return winners

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
    ) -> list[RankedRow]:
        while True:
            places, ceiling = self._best(scores, places, most)
            winners = self._winners(query, places)
            bar = _score_to_beat(query, winners)
            if ceiling < bar or ceiling == -np.inf:
                return winners
            if bar > -np.inf:
                return self._from(n, query, bar)
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

    def _approximated(self, queries: NDArray[np.float32], most: int, recall: float) -> Nominees:
        """Join what the parts' indexes nominate; the numbers are places, or -1."""
        found = []
        for part, selection, start in self._each():
            here = part.approximate(queries, most, selection, recall)
            if start:
                here.numbers[here.numbers >= 0] += start
            found.append(here)
        if len(found) == 1:
            return found[0]
        if not found:
            none = len(queries), 0
            cuts = np.full(len(queries), -np.inf, np.float32)
            return Nominees(np.empty(none, np.float32), np.empty(none, np.int64), cuts, True)
        return Nominees(
            np.hstack([one.scores for one in found]),
            np.hstack([one.numbers for one in found]),
            np.max([one.cuts for one in found], axis=0),
            all(one.complete for one in found),
        )

    def _each(self) -> Iterator[tuple[SegmentReader, Selection, int]]:
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
            found.append(part.rows_above(query, floor, selection) + start)
        return np.concatenate(found)

    def _winners(self, query: VectorQuery, places: NDArray[np.int64]) -> list[RankedRow]:
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

    def _collapsed(self, ordered: Sequence[RankedRow]) -> Iterator[RankedRow]:
        """The best of each item; one without `item` stands for itself."""
        seen: set[str] = set()
        for winner in ordered:
            item = self._parts[winner[2]].rows.items[winner[3]]
            if item not in seen:
                yield winner
            if item is not None:
                seen.add(item)


def _contenders(
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


def _score_to_beat(query: VectorQuery, winners: Sequence[RankedRow]) -> float:
    """What a row left out would have to reach to be in the answer."""
    full = len(winners) == query.k + query.offset
    bar = -winners[-1][0] if full else -np.inf
    return bar if query.min_score is None else max(bar, query.min_score)


def _nominees_for(query: VectorQuery) -> int:
    """How many rows to nominate at first."""
    wanted = query.k + query.offset
    rows = wanted * _ROWS_PER_ITEM if query.collapse else wanted
    return rows + rows // _SPARE_PER_WANTED + _SPARE
