"""Warnings about filters that name a field or compare a type that no item has.

A misspelt field matches nothing, and its negation matches everything. Such an answer is right and
changes with the first item that has the field, so it is not an error. It comes with a warning.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from contracts.filters.nodes import LIST, And, Filter, Not, Or

# A filter has up to 64 comparisons, and a request many filters.
WARNINGS_MAX = 10

# By field, the JSON types of its values in live items (contracts/filters/nodes.py).
FieldTypes = Mapping[str, AbstractSet[str]]


@dataclass(frozen=True, slots=True)
class FilterWarning:
    """A warning. `field` is the path in the request, as in an error: filter.NAME."""

    code: Literal["unknown_field", "wrong_type"]
    field: str
    message: str


def warnings_of(condition: Filter, types: FieldTypes) -> Sequence[FilterWarning]:
    """Return at most WARNINGS_MAX warnings, one for each comparison, in the canonical order.

    A comparison gets a warning if no live item has its field, or if the field has only values of
    other types than those that it is compared with.
    """
    found = (_warning(leaf, types) for leaf in _leaves(condition))
    return list(dict.fromkeys(warning for warning in found if warning is not None))[:WARNINGS_MAX]


def _leaves(condition: Filter) -> Iterator[Filter]:
    match condition:
        case And(parts) | Or(parts):
            for part in parts:
                yield from _leaves(part)
        case Not(part):
            yield from _leaves(part)
        case _:
            yield condition


def _warning(leaf: Filter, types: FieldTypes) -> FilterWarning | None:
    ((name, wanted),) = leaf.fields().items()
    found = types.get(name)
    if not found:
        return FilterWarning(
            "unknown_field", f"filter.{name}", f"filter: no item has a field {name!r}"
        )
    # Lists that are all empty so far may get members of any type.
    if not wanted or wanted & found or (LIST in found and any(t.startswith(LIST) for t in wanted)):
        return None
    return FilterWarning(
        "wrong_type",
        f"filter.{name}",
        f"filter: field {name!r} is compared with {_listed(wanted)}, "
        f"but its values are {_listed(found)}",
    )


def _listed(types: AbstractSet[str]) -> str:
    return " or ".join(sorted(types))
