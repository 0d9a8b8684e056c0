"""The nodes of a filter: what each matches, its canonical JSON, and the fields that it names.

The grammar is described in contracts/filters/json_form.py, whose `parse` makes the nodes.
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


def json_type_of(value: Any) -> str | None:
    """Return the type of a JSON value, or None for null, which counts as missing."""
    if value is None:
        return None
    if isinstance(value, str):
        return STRING
    if isinstance(value, bool):  # before numbers: Python's bool is an int
        return BOOLEAN
    if isinstance(value, int | float):
        return NUMBER
    return LIST if isinstance(value, list | tuple) else OBJECT


def list_type_of(member: str) -> str:
    """Return the type of a list with members of the type `member`.

    LIST alone is the type of a list without strings, numbers and booleans.
    """
    return f"{LIST} of {member}"


@dataclass(frozen=True, eq=False)
class Filter:
    """A node of a filter in its canonical form; two filters with the same `key` are equal."""

    def matches(self, metadata: Metadata) -> bool:
        """Return whether an item with this metadata matches.

        This defines what the filter means. Faster ways to answer it are tested against it.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the canonical JSON, whatever the order, repetition and nesting of the parts."""
        raise NotImplementedError

    def uses(self) -> Iterable[tuple[str, str | None]]:
        """Return every field named, with the type that it is compared with; None: any type."""
        raise NotImplementedError

    def fields(self) -> Mapping[str, frozenset[str]]:
        """Return the fields named, each with the types that it is compared with.

        The set is empty where the filter accepts any type.
        """
        return self._wanted

    @cached_property
    def _wanted(self) -> Mapping[str, frozenset[str]]:
        wanted: dict[str, set[str]] = {}
        for field, json_type in self.uses():
            wanted.setdefault(field, set()).update([] if json_type is None else [json_type])
        return {field: frozenset(types) for field, types in wanted.items()}

    @cached_property
    def key(self) -> bytes:
        """The key in caches, equal for equal filters."""
        return orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)

    # Compared by key, since True, 1 and 1.0 are equal in Python.
    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Filter) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, eq=False)
class In(Filter):
    """The field equals one of `values`, which are distinct and sorted; `eq` has one value."""

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
        return [(self.field, json_type_of(value)) for value in self.values]


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
            json_type_of(value) == NUMBER
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
    """The item has the field, with a value of any type but null."""

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
        return json_type_of(members) == LIST and any(
            _same(member, self.value) for member in members
        )

    def to_json(self) -> dict[str, Any]:
        return {"contains": {self.field: self.value}}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [(self.field, list_type_of(json_type_of(self.value) or ""))]


@dataclass(frozen=True, eq=False)
class And(Filter):
    """All of `parts` match: two or more, distinct, sorted by key, none of them an And."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Metadata) -> bool:
        return all(part.matches(metadata) for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {"and": [part.to_json() for part in self.parts]}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [use for part in self.parts for use in part.uses()]


@dataclass(frozen=True, eq=False)
class Or(Filter):
    """Any of `parts` matches: two or more, distinct, sorted by key, none of them an Or."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Metadata) -> bool:
        return any(part.matches(metadata) for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {"or": [part.to_json() for part in self.parts]}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return [use for part in self.parts for use in part.uses()]


@dataclass(frozen=True, eq=False)
class Not(Filter):
    """The `part` does not match; so this matches items without its field."""

    part: Filter

    def matches(self, metadata: Metadata) -> bool:
        return not self.part.matches(metadata)

    def to_json(self) -> dict[str, Any]:
        return {"not": self.part.to_json()}

    def uses(self) -> Iterable[tuple[str, str | None]]:
        return self.part.uses()


def _same(value: Any, wanted: Scalar) -> bool:
    return json_type_of(value) == json_type_of(wanted) and bool(value == wanted)
