"""Warnings of what a filter asks for and no item has, sent beside the answer.

A misspelt field matches nothing, and its negation everything. That answer is right, and changes
with the first item that has the field; so it is not an error, but deserves a warning.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from contracts.filters.nodes import LIST, And, Filter, Not, Or

# A filter has up to 64 comparisons, and a request many filters.
WARNINGS_MAX = 10

Kinds = Mapping[str, AbstractSet[str]]


@dataclass(frozen=True, slots=True)
class FilterWarning:
    """One warning. `field` names the member of the request, as in a refusal: filter.NAME."""

    code: Literal["unknown_field", "wrong_type"]
    field: str
    message: str


def warnings_of(condition: Filter, kinds: Kinds) -> Sequence[FilterWarning]:
    """Return at most WARNINGS_MAX warnings, one a comparison, in the filter's canonical order.

    `kinds` has, by field, the kinds of the values of live items (contracts/filters/nodes.py). A
    comparison gets a warning if none of the values that it asks for could equal any of them.
    """
    found = (_warning(leaf, kinds) for leaf in _leaves(condition))
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


def _warning(leaf: Filter, kinds: Kinds) -> FilterWarning | None:
    ((name, wanted),) = leaf.fields().items()
    found = kinds.get(name)
    if not found:
        return FilterWarning(
            "unknown_field", f"filter.{name}", f"filter: no item has a field {name!r}"
        )
    # Lists that are all empty so far may later have members of any kind.
    if not wanted or wanted & found or (LIST in found and any(k.startswith(LIST) for k in wanted)):
        return None
    return FilterWarning(
        "wrong_type",
        f"filter.{name}",
        f"filter: field {name!r} is compared with {_listed(wanted)}, "
        f"but its values are {_listed(found)}",
    )


def _listed(kinds: AbstractSet[str]) -> str:
    return " or ".join(sorted(kinds))
