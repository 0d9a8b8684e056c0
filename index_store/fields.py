"""The value index of rows' metadata: a filter in, the bitmap of the rows that pass out.

What a filter means is `Filter.matches` (contracts/filter_nodes.py); here the same is answered for
all rows at once, with no Python for each row. index_store/values.py tells how values are kept.

Measured (one core): five fields, one of them a list of two strings and one a number, take 30 bytes
a row; with a URL and a random number in each row 63 to 75. 250,000 rows/s are taken in. A filter
over a million rows takes 0.02 ms by value, 0.1 to 6 ms by range, as many rows pass.
"""

from array import array
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any

import orjson
from pyroaring import BitMap

from contracts.errors import RejectedRequest
from contracts.filter_nodes import (
    BOOLEAN,
    LIST,
    NUMBER,
    OBJECT,
    STRING,
    And,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    kind_of,
    list_of,
)
from index_store.bitmaps import selector_bits
from index_store.values import Values

__all__ = ["FIELDS_MAX", "Fields", "check", "selector_bits"]

# Bounds what metadata with invented field names can cost; a field takes some KB, however rare.
FIELDS_MAX = 1000
_NAMES_SHOWN = 20
# Parsed at a time, in columns: bounds the memory on the way.
_SLICE_ROWS = 8192
_SCALARS = {STRING, NUMBER, BOOLEAN}

_Groups = dict[str, tuple[list[int], list[Any]]]


class _Field:
    """One metadata field: where it is, and the values it has there."""

    def __init__(self) -> None:
        self.present = BitMap()
        self.scalars = Values()
        self.members: Values | None = None
        self._others: set[str] = set()

    def extend(self, rows: list[int], values: list[Any]) -> None:
        """Rows, ascending, and the value of each."""
        for kind, (holders, held) in _by_kind(rows, values).items():
            self.present.update(array("I", holders))
            if kind == LIST:
                self._extend_members(holders, held)
            elif kind == OBJECT:
                self._others.add(OBJECT)
            else:
                self.scalars.extend(kind, holders, held)

    def kinds(self) -> set[str]:
        members = self.members.kinds if self.members is not None else ()
        return self._others | self.scalars.kinds | {list_of(kind) for kind in members}

    def _extend_members(self, rows: list[int], lists: list[list[Any]]) -> None:
        if self.members is None:
            self.members = Values()
        holders = [row for row, members in zip(rows, lists, strict=True) for _ in members]
        groups = _by_kind(holders, list(chain.from_iterable(lists)))
        scalars = groups.keys() & _SCALARS
        for kind in scalars:
            self.members.extend(kind, *groups[kind])
        plain = all(lists) and sum(len(groups[kind][0]) for kind in scalars) == len(holders)
        if not plain and len(set().union(*(groups[kind][0] for kind in scalars))) < len(rows):
            self._others.add(LIST)


def _by_kind(rows: list[int], values: list[Any]) -> _Groups:
    """Kind -> the rows with a value of that kind, and the values; null is left out."""
    one_of_each = dict(zip(map(type, values), values, strict=True))
    kinds = {kind_of(value) for value in one_of_each.values()}
    if len(kinds) == 1:  # almost always
        (kind,) = kinds
        return {kind: (rows, values)} if kind is not None else {}
    groups: _Groups = {kind: ([], []) for kind in kinds if kind is not None}
    for row, value in zip(rows, values, strict=True):
        kind = kind_of(value)
        if kind is not None:
            groups[kind][0].append(row)
            groups[kind][1].append(value)
    return groups


class Fields:
    """Rows 0, 1, 2, ... by the values of their metadata; appended to by one writer.

    Not for several threads at once: whoever shares it locks around `extend` and `select`.
    """

    def __init__(self) -> None:
        self._count = 0
        self._fields: dict[str, _Field] = {}
        self._full = False

    def __len__(self) -> int:
        """Rows taken in."""
        return self._count

    def extend(self, metadata: Sequence[bytes | None]) -> None:
        """Append a row for each: the JSON object of its metadata, or None."""
        for start in range(0, len(metadata), _SLICE_ROWS):
            self._extend(metadata[start : start + _SLICE_ROWS])

    def _extend(self, metadata: Sequence[bytes | None]) -> None:
        columns: dict[str, tuple[list[int], list[Any]]] = {}
        for row, raw in enumerate(metadata, self._count):
            if raw is None:
                continue
            for name, value in orjson.loads(raw).items():
                column = columns.get(name)
                if column is None:
                    column = columns[name] = ([], [])
                column[0].append(row)
                column[1].append(value)
        for name, (rows, values) in columns.items():
            field = self._fields.get(name) or self._new(name, values)
            if field is not None:
                field.extend(rows, values)
        self._count += len(metadata)

    def select(self, condition: Filter) -> BitMap:
        """The rows that match; the caller's own. A field that no row has matches nothing.

        Raises RejectedRequest `field_not_indexed`.
        """
        match condition:
            case And(parts):
                # No early end: parts that name a field not indexed must be refused in any case.
                first, *rest = [self.select(part) for part in parts]
                return first.intersection(*rest)
            case Or(parts):
                return BitMap().union(*[self.select(part) for part in parts])
            case Not(part):
                return self.select(part).flip(0, self._count)
        field = self._field_of(condition)
        if field is None:
            return BitMap()
        match condition:
            case In(_, values):
                return field.scalars.equal(values)
            case Range():
                return field.scalars.between(condition)
            case Exists():
                return field.present.copy()
            case Contains(_, value):
                return field.members.equal([value]) if field.members is not None else BitMap()
        raise TypeError(f"want a filter's node, got {condition!r}")

    def kinds(self) -> dict[str, set[str]]:
        """Field -> kinds of the values seen, as in contracts/filter_nodes.py; null is none.

        A list has the kinds of its members: "list of string"; "list" alone has no scalar.
        """
        return {name: field.kinds() for name, field in self._fields.items()}

    def _new(self, name: str, values: list[Any]) -> _Field | None:
        if all(value is None for value in values):
            return None
        if len(self._fields) >= FIELDS_MAX:
            self._full = True
            return None
        field = self._fields[name] = _Field()
        return field

    def _field_of(self, condition: Filter) -> _Field | None:
        (name,) = condition.fields()
        field = self._fields.get(name)
        if field is None and self._full:
            raise RejectedRequest(
                "field_not_indexed",
                f"filter: field {name!r} is not indexed: the items have more than {FIELDS_MAX} "
                "different field names",
                field=f"filter.{name}",
                limit=FIELDS_MAX,
            )
        return field


def check(condition: Filter, kinds: Mapping[str, AbstractSet[str]]) -> None:
    """Refuse a filter that cannot match anything, given the kinds of values each field has.

    Raises RejectedRequest `unknown_field`, `wrong_type`, naming field, wanted and found kinds.
    """
    for name, wanted in condition.fields().items():
        found = kinds.get(name)
        if not found:
            if len(kinds) >= FIELDS_MAX:
                continue  # it may be one of those that are not indexed: `select` knows
            raise RejectedRequest(
                "unknown_field",
                f"filter: no item has a field {name!r}; known: {_listed(kinds)}",
                field=f"filter.{name}",
                value=name,
            )
        for kind in sorted(wanted):
            # Lists that were all empty so far may get members of any kind.
            if kind not in found and not (kind.startswith(LIST) and LIST in found):
                raise RejectedRequest(
                    "wrong_type",
                    f"filter: field {name!r} is compared with {kind}, but holds {_listed(found)}",
                    field=f"filter.{name}",
                    limit=sorted(found),
                    value=kind,
                )


def _listed(names: Mapping[str, object] | AbstractSet[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
    return (", ".join(listed[:_NAMES_SHOWN]) or "none") + more
