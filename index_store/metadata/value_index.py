"""The values of one metadata field, and the rows that hold each of them.

There are three forms, chosen by the cost of a value:

- Booleans, and the first `terms_max` different strings of a field that have TERM_CHARS_MAX
  characters at most, have a bitmap each.
- Further strings (URLs, names) stand as 128-bit BLAKE2b digests, sorted: 20 bytes a row, where a
  bitmap and the string itself would take 400. That two strings share a digest is as good as
  impossible, with intent too; the state's own digest (index_store/digest.py) relies on the same.
- Numbers are sorted by their nearest float64, with what that rounded off beside it (integers have
  64 bits), so that comparisons are exact: 14 bytes a row.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from contracts.filters.nodes import NUMBER, Number, Range, Scalar
from index_store.metadata.bitmaps import RowNumbers, bitmap_of

# The number of strings of a field that have a bitmap each.
TERMS_MAX = 512
# A longer string would be kept a second time, and metadata holds up to 16 KB of them.
TERM_CHARS_MAX = 256
# The bytes of a term besides its characters, and of a row in its bitmap.
_TERM_BYTES = 300
_ROW_BYTES = 2
_SPARE_MIN = 8
# Below this every integer is a float64.
_EXACT_MAX = 2.0**53
# Every remainder is below this: float64s below 2^64 are at most 2048 apart.
_REMAINDER_MAX = 20_000

Pair = tuple[float, int]


class SortedPairs:
    """Rows with a pair of numbers each, sorted by the first number.

    The second number is compared where the first is equal. The rows are sorted when they are next
    needed: a growing segment's few thousand in 0.2 ms, a million in 0.1 s, once.
    """

    def __init__(self, first: type[np.generic], second: type[np.generic]) -> None:
        self._first: NDArray[Any] = np.empty(0, first)
        self._second: NDArray[Any] = np.empty(0, second)
        self._rows: RowNumbers = np.empty(0, np.uint32)
        self._count = 0
        self._sorted = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Return the memory of the columns in bytes."""
        return self._first.nbytes + self._second.nbytes + self._rows.nbytes

    def extend(self, first: NDArray[Any], second: NDArray[Any], rows: Sequence[int]) -> None:
        """Append pairs with their rows; all of shape (n,)."""
        start, end = self._count, self._count + len(rows)
        if end > len(self._rows):
            # With an eighth to spare, each row is copied about eight times in all.
            room = end + max(_SPARE_MIN, end // 8)
            for column in (self._first, self._second, self._rows):
                column.resize(room, refcheck=False)
        self._first[start:end] = first
        self._second[start:end] = second
        self._rows[start:end] = rows
        self._count = end

    def between(self, low: Pair, high: Pair) -> RowNumbers:
        """Return the rows whose pair is neither below `low` nor above `high`, in no order."""
        self._sort()
        start = int(self._first.searchsorted(low[0], "left"))
        end = int(self._first.searchsorted(high[0], "right"))
        first, second = self._first[start:end], self._second[start:end]
        inside = (first > low[0]) | (second >= low[1])
        inside &= (first < high[0]) | (second <= high[1])
        found: RowNumbers = self._rows[start:end][inside]
        return found

    def equal(self, first: NDArray[Any], second: NDArray[Any]) -> RowNumbers:
        """Return the rows whose pair is one of these (n,), in no order.

        A pair given twice gives its rows twice. `first` and `second` have the columns' types.
        """
        self._sort()
        starts = self._first.searchsorted(first, "left")
        lengths = self._first.searchsorted(first, "right") - starts
        # There is an entry for each candidate: the pair that it is for, and its position.
        pair = np.repeat(np.arange(len(first)), lengths)
        at = np.arange(len(pair)) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        found: RowNumbers = self._rows[at[self._second[at] == second[pair]]]
        return found

    def _sort(self) -> None:
        if self._sorted < self._count:
            # A stable sort is fastest where most rows are in order already.
            order = np.argsort(self._first[: self._count], kind="stable")
            self._first = self._first[order]
            self._second = self._second[order]
            self._rows = self._rows[order]
            self._sorted = self._count


class ValueIndex:
    """An index of scalars: the rows that hold each."""

    def __init__(self, *, terms_max: int = TERMS_MAX) -> None:
        self._terms_max = terms_max
        self._terms: dict[str | bool, BitMap] = {}
        self._terms_bytes = 0
        self._strings = SortedPairs(np.uint64, np.uint64)
        self._numbers = SortedPairs(np.float64, np.int16)

    @property
    def nbytes(self) -> int:
        """Return about how many bytes it takes."""
        return self._terms_bytes + self._strings.nbytes + self._numbers.nbytes

    def extend(self, json_type: str, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Append rows and a value of each; all values are of `json_type`, which is a scalar one."""
        if json_type == NUMBER:
            first, second = _pairs(values)
            self._numbers.extend(first, second, rows)
        else:
            self._extend_terms(rows, values)

    def equal(self, values: Iterable[Scalar]) -> BitMap:
        """Return the rows that hold one of `values`, which are distinct."""
        bitmaps: list[BitMap] = []
        numbers: list[Number] = []
        digests: list[bytes] = []
        for value in values:
            if not isinstance(value, str | bool):
                numbers.append(value)
            elif (known := self._terms.get(value)) is not None:
                bitmaps.append(known)
            elif isinstance(value, str) and len(self._strings):
                digests.append(_digest(value))
        if numbers:
            bitmaps.append(bitmap_of(self._numbers.equal(*_pairs(numbers))))
        if digests:
            bitmaps.append(bitmap_of(self._strings.equal(*_halves(digests))))
        return BitMap().union(*bitmaps)

    def between(self, bounds: Range) -> BitMap:
        """Return the rows that hold a number within the bounds."""
        low, high = (-np.inf, 0), (np.inf, 0)
        if bounds.gte is not None:
            low = _pair(bounds.gte)
        if bounds.gt is not None:
            first, second = _pair(bounds.gt)
            low = first, second + 1
        if bounds.lte is not None:
            high = _pair(bounds.lte)
        if bounds.lt is not None:
            first, second = _pair(bounds.lt)
            high = first, second - 1
        return bitmap_of(self._numbers.between(low, high))

    def _extend_terms(self, rows: Sequence[int], values: Sequence[str | bool]) -> None:
        known = self._terms.get
        rare_rows, rare = [], []
        for row, value in zip(rows, values, strict=True):
            bitmap = known(value)
            if bitmap is not None:
                bitmap.add(row)
            elif self._is_term(value):
                self._terms[value] = BitMap((row,))
                self._terms_bytes += _TERM_BYTES
                self._terms_bytes += len(value) if isinstance(value, str) else 0
            else:
                rare_rows.append(row)
                rare.append(_digest(str(value)))
        self._terms_bytes += _ROW_BYTES * (len(rows) - len(rare))
        if rare:
            first, second = _halves(rare)
            self._strings.extend(first, second, rare_rows)

    def _is_term(self, value: str | bool) -> bool:
        """Return whether a new value gets a bitmap."""
        if isinstance(value, bool):
            return True
        return len(self._terms) < self._terms_max and len(value) <= TERM_CHARS_MAX


def _pair(number: Number) -> Pair:
    """Return the nearest float64 and the rest of an integer: pairs are ordered as the numbers."""
    nearest = float(number)
    left = number - int(nearest) if isinstance(number, int) else 0
    return nearest, max(-_REMAINDER_MAX, min(_REMAINDER_MAX, left))


def _pairs(numbers: Sequence[Number]) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Return the `_pair` of each number: shapes (n,)."""
    first = np.array(numbers, np.float64)
    second = np.zeros(len(first), np.int16)
    for n in np.flatnonzero(np.abs(first) >= _EXACT_MAX).tolist():
        second[n] = _pair(numbers[n])[1]
    return first, second


def _digest(value: str) -> bytes:
    return blake2b(value.encode(), digest_size=16).digest()


def _halves(digests: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return digests as two numbers each: shapes (n,)."""
    halves = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]
