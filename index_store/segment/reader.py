"""What a reader holds of a chunk or a segment: rows that never change, and which of them count.

A `SegmentReader` is a chunk or a segment as it was at one moment. A `Selection` names the rows of
it that a search may see: the live ones, or those of them that a filter admits.
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

# For each part; an eighth of a byte a row.
_SELECTIONS_KEPT = 16
Nominated = tuple[NDArray[np.float32], NDArray[np.int64]]


class Nominees(NamedTuple):
    """Float32 scores and row numbers (q, n), and where each query's ranking was cut.

    Where fewer than n rows were found, the numbers end with -1, whose scores are below any row's.
    No row that the cut left out scores more than `cuts` (q,) in float32.
    """

    scores: NDArray[np.float32]
    numbers: NDArray[np.int64]
    cuts: NDArray[np.float32]
    # Whether all rows were looked at, so that only the cut leaves any out.
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
# Of the rows near a query a filter admits about its share of all rows; less than half of that is
# no chance.
_THIN = 0.5
# Never on the event loop: a device answers many at once, and whoever uses it waits for it.
_DEVICE_MS = 10.0


class Selection:
    """`count` of the `rows` of one part, as the bitmap that Faiss takes; it has more bits where a
    part has room for more rows. `kinds` are those of the values that live rows have, for each field
    of the filter that it was made by."""

    def __init__(
        self,
        bits: NDArray[np.uint8],
        count: int,
        capacity: int,
        rows: int,
        kinds: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.bits = bits
        self.count = count
        self.capacity = capacity
        self.rows = rows
        self.kinds = kinds or {}

    @cached_property
    def numbers(self) -> Numbers:
        """Of the rows, ascending."""
        return row_numbers(self.bits)

    @cached_property
    def selector(self) -> Any:
        """None when it selects everything. Made at the first search: most views are never."""
        if self.count == self.capacity:
            return None
        # The Python layer takes arrays that the stubs do not know.
        return faiss.IDSelectorBitmap(self.bits)  # type: ignore[call-arg, arg-type]

    @property
    def share(self) -> float:
        return self.count / self.rows

    def refused(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these rows it does not select; -1 it never does."""
        selected = self.bits[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1
        refused: NDArray[np.bool_] = (numbers < 0) | (selected == 0)
        return refused


class Nominator(Protocol):
    """A device that holds a part's rows."""

    def nominate(
        self, queries: NDArray[np.float32], most: int, selection: Selection
    ) -> Nominees | None:
        """As `Part.approximate`; None where the CPU should answer."""
        ...


class SegmentReader:
    """A chunk or a segment as it was at one moment; `live` counts the rows that count.

    Row numbers are below `capacity`; it had `written` of them. `ann` nominates among them; None:
    few enough to be scanned. `uid` names the rows,
    not the moment; `files` is where they are, once written; `device` has them too, if any does.
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
        # Nothing of a part ever changes, so neither does what a filter admits of it.
        self._selections: dict[object, Selection] = {}

    def numbers(self) -> Numbers:
        """Of the live rows, ascending."""
        return self.live_rows.numbers

    def select(self, condition: Filter | None, reads: OnRowsRead = lambda rows: None) -> Selection:
        """Return the live rows that a filter admits; `reads` is called as `OnRowsRead` says."""
        if condition is None:
            return self.live_rows
        known = self._selections.get(condition.key)
        if known is None:
            alive = self.live_rows.bits
            matching, kinds = self.fields.select(condition, alive, reads)
            bits = selector_bits(matching, self.capacity) & alive
            count = int(np.bitwise_count(bits).sum())
            known = Selection(bits, count, self.capacity, self.written, kinds)
            if len(self._selections) >= _SELECTIONS_KEPT:
                self._selections.clear()
            self._selections[condition.key] = known
        return known

    def needs_scan(self, condition: Filter) -> bool:
        """Whether rows have to be read to answer `select`, as far as is known without waiting."""
        return condition.key not in self._selections and self.fields.needs_scan(condition)

    def cost_ms(self, recall: float, condition: Filter | None = None) -> float:
        """About what `approximate` takes over everything, or over what a filter admits; infinite
        where that is not known yet."""
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
        """The best `most` (or all) selected rows for each query (q, dim): scores and numbers.

        Both have shape (q, min(most, selected)). Scores err by less than NOMINATION_SLACK.
        """
        most = min(most, selection.count)
        if selection.count * _WALKED_PER_GATHERED < self.capacity:
            return self._gathered(queries, most, selection.numbers)
        scores, numbers = self._flat.search(queries, most, params=_parameters(selection))
        return scores, numbers

    def approximate(
        self, queries: NDArray[np.float32], most: int, selection: Selection, recall: float
    ) -> Nominees:
        """Nominate rows by an index where that pays, which may miss some."""
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
        cuts = scores[:, -1].copy()
        if selection.count == self.capacity:
            return Nominees(scores, numbers, cuts, False)
        refused = selection.refused(numbers)
        near, left = (numbers >= 0).sum(axis=1), (~refused).sum(axis=1)
        scores[refused], numbers[refused] = -np.inf, -1
        # A filter may shut out just what is near a query. What it selects is far away then, in
        # whatever lists: no effort that was measured without the filter finds it.
        for n in np.flatnonzero(left < _THIN * share * near).tolist():
            exact, found = self.nominate(queries[n : n + 1], most, selection)
            scores[n], numbers[n] = -np.inf, -1
            scores[n, : found.shape[1]], numbers[n, : found.shape[1]] = exact[0], found[0]
            cuts[n] = lowest_of(exact, selection.count)[0]
        return Nominees(scores, numbers, cuts, False)

    def rows_above(
        self, query: NDArray[np.float32], floor: float, selection: Selection
    ) -> NDArray[np.int64]:
        """Numbers of the selected rows whose float32 score is above `floor`."""
        found = self._flat.range_search(query[None], floor, params=_parameters(selection))
        numbers: NDArray[np.int64] = found[2]
        return numbers

    def _gathered(self, queries: NDArray[np.float32], most: int, numbers: Numbers) -> Nominated:
        scores = queries @ self.rows.vectors[numbers].astype(np.float32).T
        best = np.argsort(-scores, axis=1)[:, :most]
        return np.take_along_axis(scores, best, axis=1), numbers[best]


def lowest_of(scores: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Return the lowest of the best scores (q, n) of `rows` rows, or -inf if n leaves none out."""
    if scores.shape[1] >= rows:
        return np.full(len(scores), -np.inf, np.float32)
    return scores[:, -1].copy()


def _parameters(selection: Selection) -> Any:
    if selection.selector is None:
        return None
    return faiss.SearchParameters(sel=selection.selector)  # type: ignore[call-arg]
