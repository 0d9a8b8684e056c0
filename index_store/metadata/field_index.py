"""The index of one metadata field: the rows that have it, and the kinds and values they hold."""

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
from index_store.metadata.value_index import ValueIndex

# What a field takes that is in one row only, with its name and its entry in a table (measured).
FIELD_BYTES = 1500
_ROW_BYTES = 2
_SCALARS = {STRING, NUMBER, BOOLEAN}
# Rows that are looked at one by one before a bitmap is unpacked: nearly always one is alive.
_TRIED = 64

# Kind -> the rows with a value of that kind, and the values.
_Groups = dict[str, tuple[list[int], list[Any]]]
# Kind -> the rows with a value of that kind; a list is of the kinds of its members.
RowsByType = Mapping[str, BitMap]


class FieldIndex:
    """The index of a field, appended to by one writer; `asked` is when a filter last used it."""

    __slots__ = ("_by_kind", "_members", "_scalars", "asked", "rows")

    def __init__(self) -> None:
        self.asked = 0
        self.rows = 0
        self._by_kind: dict[str, BitMap] = {}
        self._scalars: ValueIndex | None = None
        self._members: ValueIndex | None = None

    @property
    def by_kind(self) -> RowsByType:
        """`list of string` and the like of a list's members; `list` alone has no scalar."""
        return self._by_kind

    @property
    def nbytes(self) -> int:
        """Return about how much memory it takes."""
        values = [values.nbytes for values in (self._scalars, self._members) if values is not None]
        return FIELD_BYTES + _ROW_BYTES * self.rows + sum(values)

    def extend(self, rows: list[int], values: list[Any]) -> None:
        """Append rows, ascending, and the value of each, which is never null."""
        self.rows += len(rows)
        for kind, (holders, held) in _grouped(rows, values).items():
            if kind == LIST:
                self._extend_members(holders, held)
                continue
            self._mark(kind, holders)
            if kind != OBJECT:
                if self._scalars is None:
                    self._scalars = ValueIndex()
                self._scalars.extend(kind, holders, held)

    def select(self, condition: Filter) -> BitMap:
        """Return the rows that match one comparison, in a bitmap that is the caller's own."""
        scalars, members = self._scalars, self._members
        match condition:
            case In(_, values):
                return BitMap() if scalars is None else scalars.equal(values)
            case Range():
                return BitMap() if scalars is None else scalars.between(condition)
            case Exists():
                return BitMap().union(*self._by_kind.values())
            case Contains(_, value):
                return BitMap() if members is None else members.equal([value])
        raise TypeError(f"want a filter's comparison, got {condition!r}")

    def _mark(self, kind: str, rows: list[int]) -> None:
        known = self._by_kind.get(kind)
        if known is None:
            known = self._by_kind[kind] = BitMap()
        known.update(array("I", rows))

    def _extend_members(self, rows: list[int], lists: list[list[Any]]) -> None:
        if self._members is None:
            self._members = ValueIndex()
        holders = [row for row, members in zip(rows, lists, strict=True) for _ in members]
        groups = _grouped(holders, list(chain.from_iterable(lists)))
        scalars = groups.keys() & _SCALARS
        for kind in scalars:
            self._members.extend(kind, *groups[kind])
            self._mark(list_type_of(kind), groups[kind][0])
        plain = all(lists) and sum(len(groups[kind][0]) for kind in scalars) == len(holders)
        if not plain:
            with_scalars = set().union(*(groups[kind][0] for kind in scalars))
            without = [row for row in rows if row not in with_scalars]
            if without:
                self._mark(LIST, without)


def live_types(by_kind: RowsByType, alive: NDArray[np.uint8]) -> frozenset[str]:
    """Return the kinds of the values in rows that are `alive`, a bit a row, low bits first."""
    return frozenset(kind for kind, rows in by_kind.items() if _any_alive(rows, alive))


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
    """Group rows and values by kind, without null, which may be a member of a list."""
    one_of_each = dict(zip(map(type, values), values, strict=True))
    kinds = {json_type_of(value) for value in one_of_each.values()}
    if len(kinds) == 1:  # almost always
        (kind,) = kinds
        return {kind: (rows, values)} if kind is not None else {}
    groups: _Groups = {kind: ([], []) for kind in kinds if kind is not None}
    for row, value in zip(rows, values, strict=True):
        kind = json_type_of(value)
        if kind is not None:
            groups[kind][0].append(row)
            groups[kind][1].append(value)
    return groups
