"""Which rows hold a value: the columns behind index_store/fields.py, for one field.

Three shapes, by what a value costs:

- Booleans, and the first TERMS_MAX different strings of a field, have a bitmap each.
- Further strings (URLs, names) stand as 128-bit BLAKE2b digests, sorted: 20 bytes a row, where a
  bitmap and the string itself would take 400. That two strings share a digest is as good as
  impossible, with intent too; the state's own digest (index_store/digest.py) relies on the same.
- Numbers are sorted by their nearest float64, with what that rounded off beside it (integers have
  64 bits), so that comparisons are exact: 14 bytes a row.

Sorted columns have an unsorted tail, which is scanned; it is merged when it has grown to a quarter
of the whole, so that a row's part in all the merges is a constant.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from contracts.filter_nodes import BOOLEAN, NUMBER, STRING, Number, Scalar
from index_store.bitmaps import RowNumbers, bitmap_of

TERMS_MAX = 512
_TAIL_MIN = 4096
_SPARE_MIN = 64
# Up to here every integer is a float64.
_EXACT_MAX = 2.0**53
# Above every remainder: float64s below 2^64 are at most 2048 apart.
_REMAINDER_MAX = 20_000

Pair = tuple[Any, int]

LOWEST: Pair = (-np.inf, 0)
HIGHEST: Pair = (np.inf, 0)


class SortedPairs:
    """Rows in the order of a pair of numbers each; appended to by one writer."""

    def __init__(self, first: type[np.generic], second: type[np.generic]) -> None:
        self._first: NDArray[Any] = np.empty(0, first)
        self._second: NDArray[Any] = np.empty(0, second)
        self._rows: RowNumbers = np.empty(0, np.uint32)
        self._count = 0
        self._sorted = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, first: NDArray[Any], second: NDArray[Any], rows: RowNumbers) -> None:
        """Append pairs with their rows; all of shape (n,)."""
        start, end = self._count, self._count + len(rows)
        if end > len(self._rows):
            # A bulk gets what it needs; many small batches copy a row eight times at most.
            room = end if len(rows) > start else end + max(_SPARE_MIN, end // 8)
            for column in (self._first, self._second, self._rows):
                column.resize(room, refcheck=False)
        self._first[start:end] = first
        self._second[start:end] = second
        self._rows[start:end] = rows
        self._count = end
        if end - self._sorted > max(_TAIL_MIN, self._sorted // 4):
            self._sort()

    def between(self, low: Pair, high: Pair) -> RowNumbers:
        """Rows whose pair is neither below `low` nor above `high`, in no order."""
        kind = self._first.dtype.type
        low_first, high_first = kind(low[0]), kind(high[0])
        in_order = self._first[: self._sorted]
        start = int(in_order.searchsorted(low_first, "left"))
        end = int(in_order.searchsorted(high_first, "right"))
        found = []
        for part in (slice(start, end), slice(self._sorted, self._count)):
            first, second = self._first[part], self._second[part]
            inside = (first > low_first) | ((first == low_first) & (second >= low[1]))
            inside &= (first < high_first) | ((first == high_first) & (second <= high[1]))
            found.append(self._rows[part][inside])
        return np.concatenate(found)

    def _sort(self) -> None:
        # By the first number only: the second decides among few, and `between` looks at it.
        # Stable, which costs least where most is in order already.
        order = np.argsort(self._first[: self._count], kind="stable")
        self._first = self._first[order]
        self._second = self._second[order]
        self._rows = self._rows[order]
        self._sorted = self._count


class Values:
    """Scalars and the rows that hold them. `put`, then `settle`, then ask."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self._terms: dict[str | bool, BitMap] = {}
        self._strings = SortedPairs(np.uint64, np.uint64)
        self._numbers = SortedPairs(np.float64, np.int16)
        # What was put since the last `settle`.
        self._new_numbers: list[Number] = []
        self._new_number_rows: list[int] = []
        self._new_digests: list[bytes] = []
        self._new_digest_rows: list[int] = []

    def put(self, row: int, value: Scalar) -> None:
        """The row holds this value (too)."""
        if isinstance(value, str | bool):
            rows = self._terms.get(value)
            if rows is not None:
                rows.add(row)
            else:
                self._put_rare(row, value)
        else:
            self._new_numbers.append(value)
            self._new_number_rows.append(row)

    def settle(self) -> None:
        """Make what was put findable."""
        if self._new_numbers:
            self.kinds.add(NUMBER)
            first = np.array(self._new_numbers, np.float64)
            second = np.zeros(len(first), np.int16)
            for n in np.flatnonzero(np.abs(first) >= _EXACT_MAX).tolist():
                second[n] = _pair(self._new_numbers[n])[1]
            self._numbers.extend(first, second, np.array(self._new_number_rows, np.uint32))
            self._new_numbers.clear()
            self._new_number_rows.clear()
        if self._new_digests:
            halves = np.frombuffer(b"".join(self._new_digests), np.uint64).reshape(-1, 2)
            rows = np.array(self._new_digest_rows, np.uint32)
            self._strings.extend(halves[:, 0], halves[:, 1], rows)
            self._new_digests.clear()
            self._new_digest_rows.clear()

    def any_of(self, values: Iterable[Scalar]) -> BitMap:
        """Rows that hold one of `values`."""
        bitmaps: list[BitMap] = []
        loose: list[RowNumbers] = []
        for value in values:
            if not isinstance(value, str | bool):
                pair = _pair(value)
                loose.append(self._numbers.between(pair, pair))
            elif (known := self._terms.get(value)) is not None:
                bitmaps.append(known)
            elif isinstance(value, str) and len(self._strings):
                halves = np.frombuffer(_digest(value), np.uint64)
                pair = halves[0], int(halves[1])
                loose.append(self._strings.between(pair, pair))
        if loose:
            bitmaps.append(bitmap_of(np.concatenate(loose)))
        return BitMap().union(*bitmaps)

    def between(self, low: Pair, high: Pair) -> BitMap:
        """Rows that hold a number within bounds from `at_least`, `above`, `at_most`, `below`."""
        return bitmap_of(self._numbers.between(low, high))

    def _put_rare(self, row: int, value: str | bool) -> None:
        self.kinds.add(STRING if isinstance(value, str) else BOOLEAN)
        if len(self._terms) < TERMS_MAX or isinstance(value, bool):
            self._terms[value] = BitMap([row])
        else:
            self._new_digests.append(_digest(value))
            self._new_digest_rows.append(row)


def at_least(number: Number) -> Pair:
    return _pair(number)


def at_most(number: Number) -> Pair:
    return _pair(number)


def above(number: Number) -> Pair:
    first, second = _pair(number)
    return first, second + 1


def below(number: Number) -> Pair:
    first, second = _pair(number)
    return first, second - 1


def _pair(number: Number) -> Pair:
    """The nearest float64, and what is left of an integer: ordered as the numbers are."""
    nearest = float(number)
    left = number - int(nearest) if isinstance(number, int) else 0
    return nearest, max(-_REMAINDER_MAX, min(_REMAINDER_MAX, left))


def _digest(value: str) -> bytes:
    return blake2b(value.encode(), digest_size=16).digest()
