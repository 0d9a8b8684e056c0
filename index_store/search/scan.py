"""The search of a view's segments: rows are nominated in float32, and the exact score decides.

An exact search nominates a few rows more than it needs from a scan of each segment. Its answer is
complete if the exact score of the last winner is above the score that any row left out could have,
which is the lowest nominated float32 score plus the error of float32 (NOMINATION_SLACK). Where it
is not, scores lie close together, and a second scan nominates every row within that error of the
last winner's score.

An approximate search takes the rows that the segments' ANN indexes nominate. Where the nominated
ranking ends among rows that may tie with the last winner, it nominates more, up to `TIES_MAX`.
Beyond that, and where the indexes found fewer rows than exist, it becomes an exact search. Without
this, pages of equal scores would repeat some rows and omit others, because it is chance which of
them an index nominates.
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

# A few more than k rows are nominated at first (an eighth, and 16), so that near ties rarely need a
# second scan.
_SPARE = 16
_SPARE_PER_WANTED = 8
# With collapse, several rows may belong to one item.
_ROWS_PER_ITEM = 4
_GROWTH = 8
# The rows nominated beyond those that are needed, to find where a tie ends: at first, and at most.
TIES_MAX = 2048
_TIES_AT_FIRST = 128
# A scan of this many rows takes half a millisecond, so it may run among the fast searches.
_SCANNED_AT_ONCE = SCANNED_ROWS
# Thousands of rows may tie. This bounds the rows converted to float64 at a time, 32 MB at 512
# dimensions.
_SCORED_AT_ONCE = 8192

# A row as a tuple that sorts in the order of an answer: the negated score, the id, the number of
# its segment, and its row number there.
RankedRow = tuple[float, str, int, int]


class SegmentSearch:
    """A search for several queries of one target with one filter, in one pass over its segments.

    `selections` name the rows of each segment that the filter admits.
    Comments here call the number of a row over all segments its place.
    """

    def __init__(
        self,
        segments: Sequence[SegmentReader],
        selections: Sequence[Selection],
        queries: Sequence[VectorQuery],
    ) -> None:
        self._segments = segments
        self._selections = selections
        self._queries = queries
        # A place is the start of a segment plus the number of a row in it.
        self._starts = [0, *accumulate(segment.capacity for segment in segments)]
        self._live = sum(selection.count for selection in selections)
        self._wide = np.array([query.vector for query in queries], np.float32)
        self._slack = tie_slack(self._wide.shape[1])

    def exact(self) -> Iterator[list[RankedRow]]:
        """Yield the winners of each query, best first, at most k + offset."""
        most = max(_nominees_for(query) for query in self._queries)
        scores, places = self._nominated(self._wide, most)
        for n, query in enumerate(self._queries):
            yield self._exact(n, query, scores[n], places[n], min(_nominees_for(query), most))

    def approximate(
        self, recall: float, *, patient: bool = True
    ) -> Iterator[list[RankedRow] | None]:
        """Yield the winners of each query, best first, found with about the given recall@10.

        They are exact where all rows are scanned. Unless `patient`, None is yielded for a query
        that would take an exact scan of many rows.
        """
        most = max(_nominees_for(query) for query in self._queries)
        found = self._approximated(self._wide, most, recall)
        may_scan = patient or self._live <= _SCANNED_AT_ONCE
        for n, query in enumerate(self._queries):
            winners, bar = self._winners_among(n, query, found.of(n), most, recall)
            if bar is None:
                yield winners
            else:
                yield self._scan_from(n, query, bar) if may_scan else None

    def _winners_among(
        self, n: int, query: VectorQuery, nominees: Nominees, most: int, recall: float
    ) -> tuple[list[RankedRow], float | None]:
        """Return the winners among the nominees, and the score that another row has to reach.

        The score is None where no row that was not nominated can be among the winners.
        """
        wanted = min(query.k + query.offset, self._live)
        for extra in (_TIES_AT_FIRST, TIES_MAX, 0):
            found = _contenders(query, nominees.scores[0], nominees.numbers[0])
            winners, cut = self._winners(query, found), float(nominees.cuts[0])
            # Too few rows: the lists that were searched held fewer than exist, and their scores say
            # nothing about the rows in other lists.
            if len(found) < wanted:
                return winners, -np.inf
            # Too few items with collapse, unless rows of lower scores are excluded by min_score.
            if query.collapse and len(winners) < wanted:
                return winners, None if self._below_min_score(query, found) else -np.inf
            bar = _score_to_beat(query, winners)
            if cut + self._slack < bar or cut == -np.inf:
                return winners, None
            # More rows from a scan would take as long as the second scan, which leaves none out.
            if nominees.complete or not extra:
                break
            nominees = self._approximated(self._wide[n : n + 1], most + extra, recall)
        return winners, bar

    def _scan_from(self, n: int, query: VectorQuery, bar: float) -> list[RankedRow]:
        """Find the winners by a scan of all rows, given that none of them scores below `bar`."""
        if bar > -np.inf:
            return self._winners(query, self._rows_above(self._wide[n], bar - NOMINATION_SLACK))
        [winners] = SegmentSearch(self._segments, self._selections, [query]).exact()
        return winners

    def _below_min_score(self, query: VectorQuery, found: NDArray[np.int64]) -> bool:
        """Return whether the rows found go below `min_score`, so that further rows would as well.

        Without this check, a `min_score` that few rows reach would cause a scan in every search.
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
        """Return the winners of the n-th query, from its nominees or from further scans.

        `scores` and `places` hold at least the best `most` nominees of all segments together.
        """
        while True:
            places, ceiling = self._best(scores, places, most)
            winners = self._winners(query, places)
            bar = _score_to_beat(query, winners)
            if ceiling < bar or ceiling == -np.inf:
                return winners
            if bar > -np.inf:
                return self._scan_from(n, query, bar)
            # With collapse, the nominees held too few items: nominate more rows.
            most *= _GROWTH
            [scores], [places] = self._nominated(self._wide[n : n + 1], most)

    def _nominated(
        self, queries: NDArray[np.float32], most: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Nominate the best `most` rows of every segment for each query (q, dim), by a scan.

        Return their float32 scores and places, those of all segments side by side: both (q, n).
        """
        scores = [np.empty((len(queries), 0), np.float32)]
        places = [np.empty((len(queries), 0), np.int64)]
        for segment, selection, start in self._each():
            found, numbers = segment.nominate(queries, most, selection)
            scores.append(found)
            places.append(numbers + start)
        return np.hstack(scores), np.hstack(places)

    def _approximated(self, queries: NDArray[np.float32], most: int, recall: float) -> Nominees:
        """Join the nominees of the segments' ANN indexes; their numbers become places, or -1."""
        found = []
        for segment, selection, start in self._each():
            here = segment.approximate(queries, most, selection, recall)
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
        """Yield each segment with any selected row, its selection, and its first place."""
        for segment, selection, start in zip(
            self._segments, self._selections, self._starts, strict=False
        ):
            if selection.count:
                yield segment, selection, start

    def _best(
        self, scores: NDArray[np.float32], places: NDArray[np.int64], most: int
    ) -> tuple[NDArray[np.int64], float]:
        """Return the `most` best of `places` (n,), by their float32 `scores` (n,).

        Also return a score that no other row can exceed; -inf if there is no other.
        """
        if self._live <= most:
            return places, -np.inf
        best = np.argpartition(scores, -most)[-most:]
        return places[best], float(scores[best].min()) + NOMINATION_SLACK

    def _rows_above(self, query: NDArray[np.float32], floor: float) -> NDArray[np.int64]:
        """Return the places of all selected rows whose float32 score is above `floor`."""
        found = [np.empty(0, np.int64)]
        for segment, selection, start in self._each():
            found.append(segment.rows_above(query, floor, selection) + start)
        return np.concatenate(found)

    def _winners(self, query: VectorQuery, places: NDArray[np.int64]) -> list[RankedRow]:
        """Return the best k + offset rows among `places`, by exact score and then by id."""
        wanted = query.k + query.offset
        scores, numbers, rows = self._scored(query, places)
        floor = -np.inf if query.min_score is None else query.min_score
        if not query.collapse and len(scores) > wanted:
            # Build Python objects only for rows that can win, with all ties of the last winner.
            floor = max(floor, np.partition(scores, -wanted)[-wanted])
        kept = np.flatnonzero(scores >= floor)
        found = sorted(
            (-score, self._segments[number].rows.ids[row], number, row)
            for score, number, row in zip(
                scores[kept].tolist(), numbers[kept].tolist(), rows[kept].tolist(), strict=True
            )
        )
        if query.collapse:
            return list(islice(self._collapsed(found), wanted))
        return found[:wanted]

    def _scored(
        self, query: VectorQuery, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], Numbers, Numbers]:
        """Return the exact scores of `places`, and the segment and the row number of each.

        All three have shape (n,) and share one order, which may differ from that of `places`.
        """
        if len(places) > _SCORED_AT_ONCE:
            some = np.split(places, range(_SCORED_AT_ONCE, len(places), _SCORED_AT_ONCE))
            found = zip(*(self._scored(query, one) for one in some), strict=True)
            scores, numbers, rows = map(np.concatenate, found)
            return scores, numbers, rows
        if len(self._segments) == 1:
            # The common case. The general way below would take as long again as the scores.
            scores = exact_scores(self._segments[0].rows.vectors[places], query.vector)
            return scores, np.zeros(len(places), np.intp), places
        rows = np.sort(places)
        ends = np.searchsorted(rows, self._starts).tolist()
        vectors = np.empty((len(rows), self._wide.shape[1]), np.float16)
        numbers = np.empty(len(rows), np.intp)
        for n, segment in enumerate(self._segments):
            here = slice(ends[n], ends[n + 1])
            if ends[n] < ends[n + 1]:
                rows[here] -= self._starts[n]
                numbers[here] = n
                vectors[here] = segment.rows.vectors[rows[here]]
        return exact_scores(vectors, query.vector), numbers, rows

    def _collapsed(self, ordered: Sequence[RankedRow]) -> Iterator[RankedRow]:
        """Yield the first row of each `item` in order; a row without one counts by itself."""
        seen: set[str] = set()
        for winner in ordered:
            item = self._segments[winner[2]].rows.items[winner[3]]
            if item not in seen:
                yield winner
            if item is not None:
                seen.add(item)


def _contenders(
    query: VectorQuery, scores: NDArray[np.float32], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the places, among those nominated, whose exact score may put them in the answer."""
    wanted = query.k + query.offset
    if query.collapse or len(places) <= wanted:
        return places[places >= 0]
    # The float32 scores of the row and of the last winner may both err by the slack. With too few
    # nominees the bar is that of a missing row, so every row passes.
    bar = np.partition(scores, -wanted)[-wanted] - 2 * NOMINATION_SLACK
    contenders: NDArray[np.int64] = places[(scores >= bar) & (places >= 0)]
    return contenders


def _score_to_beat(query: VectorQuery, winners: Sequence[RankedRow]) -> float:
    """Return the score that a row that was left out would have to reach to be in the answer.

    It is -inf if the answer has fewer winners than wanted and the query has no `min_score`.
    """
    full = len(winners) == query.k + query.offset
    bar = -winners[-1][0] if full else -np.inf
    return bar if query.min_score is None else max(bar, query.min_score)


def _nominees_for(query: VectorQuery) -> int:
    """Return the number of rows to nominate at first."""
    wanted = query.k + query.offset
    rows = wanted * _ROWS_PER_ITEM if query.collapse else wanted
    return rows + rows // _SPARE_PER_WANTED + _SPARE
