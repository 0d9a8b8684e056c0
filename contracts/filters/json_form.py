"""Filters over the metadata of items: the JSON grammar, and what a filter means.

A filter is a JSON object with exactly one operator:

    {"eq": {"lang": "en"}}                           the field equals a string, number or boolean
    {"in": {"lang": ["en", "de"]}}                   the field equals one of these
    {"range": {"year": {"gte": 2000, "lt": 2010}}}   a number: at most one of gte, gt; of lte, lt
    {"exists": "year"}                               the field is there and not null
    {"contains": {"tags": "cat"}}                    the field is a list with this member
    {"and": [...]}  {"or": [...]}  {"not": {...}}    one filter or more; one for `not`

- Numbers compare as numbers, exactly: 1 equals 1.0. A boolean is not a number: true is not 1.
- A field that is missing, null or of another type matches nothing, so its negation matches.
- `contains` tests whether a list has a member, never whether a string has a part. Only strings,
  numbers and booleans count in a list. An object in the metadata matches `exists` and nothing else.

A filter that breaks a rule is refused as `invalid_filter`, with the path of the fault, such as
filter.and[1].range.year.
contracts/filters/text_form.py has the text form of filters, for the command line.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from contracts.errors import RejectedRequest
from contracts.filters.nodes import (
    LIST,
    NUMBER,
    OBJECT,
    And,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Number,
    Or,
    Range,
    Scalar,
    json_type_of,
)
from contracts.wire.exact_json import find_inexact

__all__ = ["Filter", "parse"]

DEPTH_MAX = 8
NODES_MAX = 64
IN_VALUES_MAX = 1000
FIELD_CHARS_MAX = 256
STRING_CHARS_MAX = 4096


def parse(raw: Any) -> Filter:
    """Parse a filter. Raises RejectedRequest `invalid_filter`; its `field` is the path."""
    return _Parser().node(raw, "filter", 1)


class _Parser:
    """A parser of one filter, which counts the nodes."""

    def __init__(self) -> None:
        self._nodes = 0
        self._operators: dict[str, Callable[[Any, str, int], Filter]] = {
            "and": lambda raw, path, depth: _joined(And, self._parts(raw, path, depth)),
            "contains": self._contains,
            "eq": self._eq,
            "exists": self._exists,
            "in": self._in,
            "not": lambda raw, path, depth: Not(self.node(raw, path, depth + 1)),
            "or": lambda raw, path, depth: _joined(Or, self._parts(raw, path, depth)),
            "range": self._range,
        }

    def node(self, raw: Any, path: str, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            _refuse(path, f"too deep: limit {DEPTH_MAX} levels, got more", DEPTH_MAX, depth)
        self._nodes += 1
        if self._nodes > NODES_MAX:
            _refuse(path, f"too large: limit {NODES_MAX} operators, got more", NODES_MAX)
        name, operand = _only_member(raw, path, "operator")
        if name not in self._operators:
            known = ", ".join(self._operators)
            _refuse(path, f"no operator {_shown(name)}; there are {known}", value=_shown(name))
        return self._operators[name](operand, f"{path}.{name}", depth)

    def _parts(self, raw: Any, path: str, depth: int) -> list[Filter]:
        if not isinstance(raw, list) or not raw:
            _refuse(path, f"want a list of one filter or more, got {_described(raw)}")
        return [self.node(part, f"{path}[{n}]", depth + 1) for n, part in enumerate(raw)]

    def _eq(self, raw: Any, path: str, depth: int) -> Filter:
        field, path, value = _of_field(raw, path)
        return In(field, (_scalar(value, path),))

    def _contains(self, raw: Any, path: str, depth: int) -> Filter:
        field, path, value = _of_field(raw, path)
        return Contains(field, _scalar(value, path))

    def _exists(self, raw: Any, path: str, depth: int) -> Filter:
        return Exists(_field(raw, path))

    def _in(self, raw: Any, path: str, depth: int) -> Filter:
        field, path, values = _of_field(raw, path)
        if not isinstance(values, list) or not values:
            _refuse(path, f"want a list of one value or more, got {_described(values)}")
        if len(values) > IN_VALUES_MAX:
            found = len(values)
            _refuse(path, f"limit {IN_VALUES_MAX} values, got {found}", IN_VALUES_MAX, found)
        scalars = [_scalar(value, f"{path}[{n}]") for n, value in enumerate(values)]
        distinct = {(json_type_of(value) or "", value): value for value in scalars}
        return In(field, tuple(distinct[key] for key in sorted(distinct)))

    def _range(self, raw: Any, path: str, depth: int) -> Filter:
        field, path, bounds = _of_field(raw, path)
        if not isinstance(bounds, dict) or not bounds:
            _refuse(path, f"want an object of gte, gt, lte, lt, got {_described(bounds)}")
        for name, bound in bounds.items():
            if name not in ("gte", "gt", "lte", "lt"):
                _refuse(path, f"no bound {_shown(name)}; there are gte, gt, lte, lt")
            if json_type_of(bound) != NUMBER:
                _refuse(f"{path}.{name}", f"want a number, got {_described(bound)}")
        for pair in ({"gte", "gt"}, {"lte", "lt"}):
            if pair <= bounds.keys():
                _refuse(path, f"at most one of {' and '.join(sorted(pair))} can be given")
        return Range(field, **{name: _number(n, f"{path}.{name}") for name, n in bounds.items()})


def _joined(operator: type[And] | type[Or], parts: Sequence[Filter]) -> Filter:
    """Return the canonical form of `and` or `or`.

    Parts that are nested in the same operator are lifted out. A single part needs no operator.
    """
    flat: dict[bytes, Filter] = {}
    for part in parts:
        for one in part.parts if isinstance(part, operator) else (part,):
            flat[one.key] = one
    if len(flat) == 1:
        return next(iter(flat.values()))
    return operator(tuple(flat[key] for key in sorted(flat)))


def _of_field(raw: Any, path: str) -> tuple[str, str, Any]:
    """Return the single field in an operator's object, the path to it, and its operand."""
    name, operand = _only_member(raw, path, "field")
    field = _field(name, path)
    return field, f"{path}.{field}", operand


def _only_member(raw: Any, path: str, what: str) -> tuple[Any, Any]:
    if not isinstance(raw, dict):
        _refuse(path, f"want an object with one {what}, got {_described(raw)}")
    if len(raw) != 1:
        _refuse(path, f"want exactly one {what}, got {len(raw)}", 1, len(raw))
    return next(iter(raw.items()))


def _field(raw: Any, path: str) -> str:
    if not isinstance(raw, str):
        _refuse(path, f"want a field's name, got {_described(raw)}")
    return _text(raw, path, "a field's name", FIELD_CHARS_MAX)


def _scalar(raw: Any, path: str) -> Scalar:
    if isinstance(raw, str):
        return _text(raw, path, "a string", STRING_CHARS_MAX)
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, int | float):
        _refuse(path, f"want a string, number or boolean, got {_described(raw)}")
    return _number(raw, path)


def _text(raw: str, path: str, what: str, limit: int) -> str:
    if len(raw) > limit:
        _refuse(path, f"{what}: limit {limit} characters, got {len(raw)}", limit, len(raw))
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:
            _refuse(path, f"{what} is not encodable as UTF-8")
    return raw


def _number(raw: Number, path: str) -> Number:
    """Return a whole number as int, so that 1 and 1.0 have one canonical form."""
    if isinstance(raw, float):
        if not math.isfinite(raw):
            _refuse(path, "want a finite number")
        if not raw.is_integer() or not -(2.0**63) <= raw < 2.0**64:
            return raw
        raw = int(raw)
    found = find_inexact(raw)
    if found is not None:
        _refuse(path, found.message, found.limit, found.value)
    return raw


def _described(raw: Any) -> str:
    if isinstance(raw, str):
        return f"the string {_shown(raw)}"
    name = json_type_of(raw) or "null"
    return f"an empty {name}" if name in (LIST, OBJECT) and not raw else name


def _shown(raw: Any) -> str:
    text = str(raw)
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _refuse(path: str, why: str, limit: Any = None, value: Any = None) -> NoReturn:
    raise RejectedRequest("invalid_filter", f"{path}: {why}", field=path, limit=limit, value=value)
