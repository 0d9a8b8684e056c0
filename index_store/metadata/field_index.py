"""The index of one metadata field: the rows that have it, and the types and values they hold."""

from array import array
from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from contracts.filters.nodes import (
    BOOLEAN,
    LIST,
    NUMBER,
    OBJECT,
    STRING,
    Contains,
    Exists,
    Filter,
    In,
    Range,
    json_type_of,
    list_type_of,
)
from index_store.metadata.bitmaps import selector_bits
from index_store.metadata.value_index import TERMS_MAX, ValueIndex

# The bytes of a field that is in one row only, with its name and its entry in a table (measured).
FIELD_BYTES = 1500
_ROW_BYTES = 2
_SCALARS = {STRING, NUMBER, BOOLEAN}
# The rows looked at one by one before a bitmap is unpacked: nearly always one of them is live.
_TRIED = 64

# JSON type -> the rows with a value of that type, and the values.
_Groups = dict[str, tuple[list[int], list[Any]]]
# JSON type -> the rows with a value of that type; a list counts by the types of its members.
RowsByType = Mapping[str, BitMap]


class FieldIndex:
    """The index of a field, appended to by one writer; `last_used` says when a filter used it.

    `terms_max` strings of the field's values, and as many of its lists' members, have a bitmap
    each; further ones stand as digests.
    """

    __slots__ = ("_members", "_rows_by_type", "_scalars", "_terms_max", "last_used", "rows")

    def __init__(self, *, terms_max: int = TERMS_MAX) -> None:
        self.last_used = 0
        self.rows = 0
        self._terms_max = terms_max
        self._rows_by_type: dict[str, BitMap] = {}
        self._scalars: ValueIndex | None = None
        self._members: ValueIndex | None = None

    @property
    def rows_by_type(self) -> RowsByType:
        """The rows by the JSON type of their value.

        A list is of types such as `list of string`, one for each type of its members; it is of type
        `list` if it has no scalar.
        """
        return self._rows_by_type

    @property
    def nbytes(self) -> int:
        """Return about how much memory it takes."""
        values = [values.nbytes for values in (self._scalars, self._members) if values is not None]
        return FIELD_BYTES + _ROW_BYTES * self.rows + sum(values)

    def extend(self, rows: list[int], values: list[Any]) -> None:
        """Append rows, ascending, and the value of each, which is never null."""
        self.rows += len(rows)
        for json_type, (holders, held) in _grouped(rows, values).items():
            if json_type == LIST:
                self._extend_members(holders, held)
                continue
            self._mark(json_type, holders)
            if json_type != OBJECT:
                if self._scalars is None:
                    self._scalars = ValueIndex(terms_max=self._terms_max)
                self._scalars.extend(json_type, holders, held)

    def select(self, condition: Filter) -> BitMap:
        """Return the rows that match one comparison, in a bitmap that is the caller's own."""
        scalars, members = self._scalars, self._members
        match condition:
            case In(_, values):
                return BitMap() if scalars is None else scalars.equal(values)
            case Range():
                return BitMap() if scalars is None else scalars.between(condition)
            case Exists():
                return BitMap().union(*self._rows_by_type.values())
            case Contains(_, value):
                return BitMap() if members is None else members.equal([value])
        raise TypeError(f"want a filter's comparison, got {condition!r}")

    def _mark(self, json_type: str, rows: list[int]) -> None:
        known = self._rows_by_type.get(json_type)
        if known is None:
            known = self._rows_by_type[json_type] = BitMap()
        known.update(array("I", rows))

    def _extend_members(self, rows: list[int], lists: list[list[Any]]) -> None:
        if self._members is None:
            self._members = ValueIndex(terms_max=self._terms_max)
        holders = [row for row, members in zip(rows, lists, strict=True) for _ in members]
        groups = _grouped(holders, list(chain.from_iterable(lists)))
        scalars = groups.keys() & _SCALARS
        for json_type in scalars:
            self._members.extend(json_type, *groups[json_type])
            self._mark(list_type_of(json_type), groups[json_type][0])
        plain = all(lists) and sum(len(groups[json_type][0]) for json_type in scalars) == len(
            holders
        )
        if not plain:
            with_scalars = set().union(*(groups[json_type][0] for json_type in scalars))
            without = [row for row in rows if row not in with_scalars]
            if without:
                self._mark(LIST, without)


def live_types(rows_by_type: RowsByType, alive: NDArray[np.uint8]) -> frozenset[str]:
    """Return the JSON types of the values in `alive` rows: one bit for a row, low bits first."""
    return frozenset(
        json_type for json_type, rows in rows_by_type.items() if _any_alive(rows, alive)
    )


def _any_alive(rows: BitMap, alive: NDArray[np.uint8]) -> bool:
    # A numpy scalar takes longer than all the rest.
    bits = alive.data
    end = 8 * len(bits)
    for row in islice(rows, _TRIED):
        if row < end and bits[row >> 3] >> (row & 7) & 1:
            return True
    if len(rows) <= _TRIED:
        return False
    there = selector_bits(rows, max(end, rows.max() + 1))
    return bool((there[: len(bits)] & alive).any())


def _grouped(rows: list[int], values: list[Any]) -> _Groups:
    """Group rows and values by JSON type, without null, which may be a member of a list."""
    one_of_each = dict(zip(map(type, values), values, strict=True))
    types = {json_type_of(value) for value in one_of_each.values()}
    if len(types) == 1:  # almost always
        (json_type,) = types
        return {json_type: (rows, values)} if json_type is not None else {}
    groups: _Groups = {json_type: ([], []) for json_type in types if json_type is not None}
    for row, value in zip(rows, values, strict=True):
        json_type = json_type_of(value)
        if json_type is not None:
            groups[json_type][0].append(row)
            groups[json_type][1].append(value)
    return groups
