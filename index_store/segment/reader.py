"""Readers of segments: rows that never change, and a choice of those that a search may see.

A `SegmentReader` is a growing or sealed segment as it was at one moment. A `Selection` names rows
of it: the live ones, or those of them that a filter admits.
"""

from collections.abc import Mapping
from functools import cached_property
from math import inf
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from contracts.filters.nodes import Filter
from index_store.ann.faiss_index import SCANNED_ROW_MS, SKIPPED_ROW, AnnIndex
from index_store.ann.flat import Flat
from index_store.ann.growing_codes import GrowingCodes
from index_store.metadata.bitmaps import row_numbers, selector_bits
from index_store.metadata.segment_fields import OnRowsRead, SegmentFields
from index_store.segment.files import SegmentFiles
from index_store.segment.rows import Numbers, Rows

# Selections that each reader remembers, of an eighth of a byte a row.
_SELECTIONS_KEPT = 16
Nominated = tuple[NDArray[np.float32], NDArray[np.int64]]


class Nominees(NamedTuple):
    """The nominated rows of q queries: float32 scores and row numbers (q, n), best first.

    Where fewer than n rows were found, the numbers end with -1, whose scores are below any row's.
    No row that was looked at and left out scores more than `cuts` (q,) in float32. If `complete`,
    all rows were looked at.
    """

    scores: NDArray[np.float32]
    numbers: NDArray[np.int64]
    cuts: NDArray[np.float32]
    complete: bool

    def of(self, query: int) -> "Nominees":
        """Return the nominees of one query."""
        if len(self.cuts) == 1:
            return self
        only = slice(query, query + 1)
        return Nominees(self.scores[only], self.numbers[only], self.cuts[only], self.complete)


# Reading one row by itself costs as much as walking the bitmap over so many (measured: 1 us a row
# where numpy converts float16 without SIMD; 1.2 ms for the bitmap of a million).
_WALKED_PER_GATHERED = 800
# A filter admits about its share of the rows near a query. If it admits less than half of that, the
# filter and the query are related, and an index finds too few of the admitted rows.
_THIN = 0.5
# The cost of a search on a device, so high that it never runs on the event loop, which would wait.
_DEVICE_MS = 10.0


class Selection:
    """Some rows of one segment: `count` of its `rows`, as a bitmap that Faiss takes.

    `bits` has `capacity` bits, low bits first; a growing segment has room for more than `rows`.
    `types` are the JSON types of the values in live rows, for each field of the filter that made
    the selection.
    """

    def __init__(
        self,
        bits: NDArray[np.uint8],
        count: int,
        capacity: int,
        rows: int,
        types: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.bits = bits
        self.count = count
        self.capacity = capacity
        self.rows = rows
        self.types = types or {}

    @cached_property
    def numbers(self) -> Numbers:
        """The numbers of the selected rows, ascending: shape (count,)."""
        return row_numbers(self.bits)

    @cached_property
    def selector(self) -> Any:
        """Faiss's selector, or None for all rows. It is made when a search first needs it."""
        if self.count == self.capacity:
            return None
        # The Python layer takes arrays that the stubs do not know.
        return faiss.IDSelectorBitmap(self.bits)  # type: ignore[call-arg, arg-type]

    @property
    def share(self) -> float:
        """The selected share of all rows, from 0 to 1."""
        return self.count / self.rows

    def refused(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the `numbers` that are not selected; -1 never is. The shape is that of `numbers`."""
        selected = self.bits[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1
        refused: NDArray[np.bool_] = (numbers < 0) | (selected == 0)
        return refused


class Nominator(Protocol):
    """A device that holds the rows of a segment."""

    def nominate(
        self, queries: NDArray[np.float32], most: int, selection: Selection
    ) -> Nominees | None:
        """Nominate as `SegmentReader.approximate` does; return None if the CPU should answer."""
        ...


class SegmentReader:
    """A segment as it was at one moment: any thread may read it.

    Row numbers are below `capacity`; `written` rows were there, and `live` of them were live: those
    set in `bits`. `ann` nominates rows; None means that they are few enough to be scanned. `uid`
    names the rows, not the moment; `files` are the rows' files, once written; `device` holds the
    rows too, if a device has room for them.
    """

    def __init__(
        self,
        rows: Rows,
        flat: Flat,
        bits: NDArray[np.uint8],
        live: int,
        capacity: int,
        written: int,
        fields: SegmentFields,
        ann: AnnIndex | GrowingCodes | None,
        uid: str,
        files: SegmentFiles | None = None,
        device: Nominator | None = None,
    ) -> None:
        self.files = files
        self.uid = uid
        self.rows = rows
        self.live = live
        self.capacity = capacity
        self.written = written
        self.fields = fields
        self.ann = ann
        self.live_rows = Selection(bits, live, capacity, written)
        self._flat = flat
        self._device = device
        # Nothing in a reader ever changes, so neither do the rows that a filter admits.
        self._selections: dict[object, Selection] = {}

    def numbers(self) -> Numbers:
        """Return the numbers of the live rows, ascending."""
        return self.live_rows.numbers

    def select(self, condition: Filter | None, reads: OnRowsRead = lambda rows: None) -> Selection:
        """Return the live rows that a filter admits; `reads` is called as `OnRowsRead` says."""
        if condition is None:
            return self.live_rows
        known = self._selections.get(condition.key)
        if known is None:
            alive = self.live_rows.bits
            matching, types = self.fields.select(condition, alive, reads)
            bits = selector_bits(matching, self.capacity) & alive
            count = int(np.bitwise_count(bits).sum())
            known = Selection(bits, count, self.capacity, self.written, types)
            if len(self._selections) >= _SELECTIONS_KEPT:
                self._selections.clear()
            self._selections[condition.key] = known
        return known

    def needs_scan(self, condition: Filter) -> bool:
        """Return whether `select` has to read rows, as far as is known without waiting."""
        return condition.key not in self._selections and self.fields.needs_scan(condition)

    def cost_ms(self, recall: float, condition: Filter | None = None) -> float:
        """Estimate the milliseconds that `approximate` takes for one query.

        The estimate is infinite for a filter whose rows are not known yet.
        """
        if self._device is not None:
            return _DEVICE_MS
        selection = self.live_rows
        if condition is not None:
            known = self._selections.get(condition.key)
            if known is None:
                return inf
            selection = known
        skipped = self.capacity if selection.count < self.live else 0
        scanned = (selection.count + skipped * SKIPPED_ROW) * SCANNED_ROW_MS
        if self.ann is None or not selection.count:
            return scanned
        return min(scanned, self.ann.cost_ms(selection.share, recall))

    def nominate(self, queries: NDArray[np.float32], most: int, selection: Selection) -> Nominated:
        """Scan the selected rows for the best `most` for each query (q, dim).

        Returns float32 scores and row numbers of shape (q, min(most, selected)), best first. Scores
        err by less than NOMINATION_SLACK.
        """
        most = min(most, selection.count)
        if selection.count * _WALKED_PER_GATHERED < self.capacity:
            return self._gathered(queries, most, selection.numbers)
        scores, numbers = self._flat.search(queries, most, params=_parameters(selection))
        return scores, numbers

    def approximate(
        self, queries: NDArray[np.float32], most: int, selection: Selection, recall: float
    ) -> Nominees:
        """Nominate about `most` rows for each query (q, dim), some of the best may be missing.

        An index nominates where that is cheaper than a scan, with an effort for `recall`. See
        `Nominees` for the result.
        """
        if self._device is not None:
            there = self._device.nominate(queries, most, selection)
            if there is not None:
                return there
        share = selection.share
        if self.ann is None or not self.ann.is_cheaper_than_scan(
            selection.count, most, share, recall
        ):
            scores, numbers = self.nominate(queries, most, selection)
            return Nominees(scores, numbers, lowest_of(scores, selection.count), True)
        scores, numbers = self.ann.search(queries, most, share, recall)
        # A filter only drops some of what was found, so the cut is where the index made it.
        nominees = Nominees(scores, numbers, scores[:, -1].copy(), False)
        if selection.count < self.capacity:
            self._drop_refused(queries, most, selection, nominees)
        return nominees

    def _drop_refused(
        self, queries: NDArray[np.float32], most: int, selection: Selection, nominees: Nominees
    ) -> None:
        """Drop the nominees that are not selected, in place, and scan where too few are left.

        A filter may refuse just the rows near a query. The rows that it selects are far away then,
        in any of an index's lists: no effort that was measured without the filter finds them.
        """
        scores, numbers, cuts, _ = nominees
        refused = selection.refused(numbers)
        near, left = (numbers >= 0).sum(axis=1), (~refused).sum(axis=1)
        scores[refused], numbers[refused] = -np.inf, -1
        for n in np.flatnonzero(left < _THIN * selection.share * near).tolist():
            exact, found = self.nominate(queries[n : n + 1], most, selection)
            scores[n], numbers[n] = -np.inf, -1
            scores[n, : found.shape[1]], numbers[n, : found.shape[1]] = exact[0], found[0]
            cuts[n] = lowest_of(exact, selection.count)[0]

    def rows_above(
        self, query: NDArray[np.float32], floor: float, selection: Selection
    ) -> NDArray[np.int64]:
        """Return the numbers of the selected rows whose float32 score is above `floor`."""
        found = self._flat.range_search(query[None], floor, params=_parameters(selection))
        numbers: NDArray[np.int64] = found[2]
        return numbers

    def _gathered(self, queries: NDArray[np.float32], most: int, numbers: Numbers) -> Nominated:
        scores = queries @ self.rows.vectors[numbers].astype(np.float32).T
        best = np.argsort(-scores, axis=1)[:, :most]
        return np.take_along_axis(scores, best, axis=1), numbers[best]


def lowest_of(scores: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Return the lowest of the best scores (q, n) of `rows` rows, or -inf if all are in: (q,)."""
    if scores.shape[1] >= rows:
        return np.full(len(scores), -np.inf, np.float32)
    return scores[:, -1].copy()


def _parameters(selection: Selection) -> Any:
    if selection.selector is None:
        return None
    return faiss.SearchParameters(sel=selection.selector)  # type: ignore[call-arg]
