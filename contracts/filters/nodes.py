"""The nodes of a filter: what each means, its canonical JSON, and the fields it uses.

The grammar is told in contracts/filters/json_form.py, whose `parse` makes these.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

Number = int | float
Scalar = str | int | float | bool
Metadata = Mapping[str, Any]

STRING, NUMBER, BOOLEAN, LIST, OBJECT = "string", "number", "boolean", "list", "object"


def kind_of(value: Any) -> str | None:
    """The kind of a JSON value; None for null, which counts as missing."""
    if value is None:
        return None
    if isinstance(value, str):
        return STRING
    if isinstance(value, bool):  # before numbers: Python's bool is an int
        return BOOLEAN
    if isinstance(value, int | float):
        return NUMBER
    return LIST if isinstance(value, list | tuple) else OBJECT


def list_of(kind: str) -> str:
    """The kind of a list that has members of `kind`; LIST alone has no scalar member."""
    return f"{LIST} of {kind}"


@dataclass(frozen=True, eq=False)
class Filter:
    """One node of a filter in its canonical form. Made by `parse`; equal by `key`."""

    def matches(self, metadata: Metadata) -> bool:
        """What the filter means: the reference for every faster way to answer it."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Canonical: equal for filters that differ only in order, repetition or nesting."""
        raise NotImplementedError

    def uses(self) -> Iterable[tuple[str, str | None]]:
        """Every field named, with the kind wanted of it; None where any kind will do."""
        raise NotImplementedError

    def fields(self) -> Mapping[str, frozenset[str]]:
        """The fields used, each with the kinds wanted of it; none where any kind will do."""
        return self._wanted

    @cached_property
    def _wanted(self) -> Mapping[str, frozenset[str]]:
        wanted: dict[str, set[str]] = {}
        for field, kind in self.uses():
            wanted.setdefault(field, set()).update([kind] if kind is not None else [])
        return {field: frozenset(kinds) for field, kinds in wanted.items()}

    @cached_property
    def key(self) -> bytes:
        """Equal for equal filters; for caches."""
        return orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)

    # By key, since Python takes True, 1 and 1.0 for the same.
    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Filter) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, eq=False)
class In(Filter):
    """The field equals one of `values`: distinct, sorted. `eq` is the case of one value."""

    field: str
    values: tuple[Scalar, ...]

    def matches(self, metadata: Metadata) -> bool:
        value = metadata.get(self.field)
        return any(_same(value, wanted) for wanted in self.values)

    def to_json(self) -> dict[str, Any]:
        if len(self.values) == 1:
            return {"eq": {self.field: self.values[0]}}
        return {"in": {self.field: list(self.values)}}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [(self.field, kind_of(value)) for value in self.values]


@dataclass(frozen=True, eq=False)
class Range(Filter):
    """The field is a number within all bounds given."""

    field: str
    gte: Number | None = None
    gt: Number | None = None
    lte: Number | None = None
    lt: Number | None = None

    def matches(self, metadata: Metadata) -> bool:
        value: Any = metadata.get(self.field)
        return (
            kind_of(value) == NUMBER
            and (self.gte is None or value >= self.gte)
            and (self.gt is None or value > self.gt)
            and (self.lte is None or value <= self.lte)
            and (self.lt is None or value < self.lt)
        )

    def to_json(self) -> dict[str, Any]:
        bounds = {name: getattr(self, name) for name in ("gte", "gt", "lte", "lt")}
        return {"range": {self.field: {k: v for k, v in bounds.items() if v is not None}}}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [(self.field, NUMBER)]


@dataclass(frozen=True, eq=False)
class Exists(Filter):
    """The field is there, of whatever kind, and not null."""

    field: str

    def matches(self, metadata: Metadata) -> bool:
        return metadata.get(self.field) is not None

    def to_json(self) -> dict[str, Any]:
        return {"exists": self.field}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [(self.field, None)]


@dataclass(frozen=True, eq=False)
class Contains(Filter):
    """The field is a list with the member `value`."""

    field: str
    value: Scalar

    def matches(self, metadata: Metadata) -> bool:
        members: Any = metadata.get(self.field)
        return kind_of(members) == LIST and any(_same(member, self.value) for member in members)

    def to_json(self) -> dict[str, Any]:
        return {"contains": {self.field: self.value}}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [(self.field, list_of(kind_of(self.value) or ""))]


@dataclass(frozen=True, eq=False)
class And(Filter):
    """All of `parts`: two or more, distinct, sorted by key, none of them an And."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Metadata) -> bool:
        return all(part.matches(metadata) for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {"and": [part.to_json() for part in self.parts]}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [use for part in self.parts for use in part.uses()]


@dataclass(frozen=True, eq=False)
class Or(Filter):
    """Any of `parts`: two or more, distinct, sorted by key, none of them an Or."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Metadata) -> bool:
        return any(part.matches(metadata) for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {"or": [part.to_json() for part in self.parts]}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [use for part in self.parts for use in part.uses()]


@dataclass(frozen=True, eq=False)
class Not(Filter):
    """Whatever `part` does not match, items without its field included."""

    part: Filter

    def matches(self, metadata: Metadata) -> bool:
        return not self.part.matches(metadata)

    def to_json(self) -> dict[str, Any]:
        return {"not": self.part.to_json()}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return self.part.uses()


def _same(value: Any, wanted: Scalar) -> bool:
    return kind_of(value) == kind_of(wanted) and bool(value == wanted)
