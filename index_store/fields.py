"""The value index of rows' metadata: a filter in, the bitmap of the rows that pass out.

What a filter means is `Filter.matches` (contracts/filter_nodes.py); here the same is answered for
all rows at once, with no Python for each row. index_store/values.py tells how values are kept.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import orjson
from pyroaring import BitMap

from contracts.errors import RejectedRequest
from contracts.filter_nodes import (
    LIST,
    OBJECT,
    And,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    list_of,
)
from index_store.bitmaps import selector_bits
from index_store.values import HIGHEST, LOWEST, Values, above, at_least, at_most, below

__all__ = ["FIELDS_MAX", "Fields", "check", "selector_bits"]

# Bounds what metadata with invented field names can cost; a field takes some KB, however rare.
FIELDS_MAX = 1000
_NAMES_SHOWN = 20


class _Field:
    """One metadata field: where it is, and the values it has there."""

    def __init__(self) -> None:
        self.present = BitMap()
        self.scalars = Values()
        self.members: Values | None = None
        self.kinds: set[str] = set()
        self.new_rows: list[int] = []

    def put_other(self, row: int, value: object) -> None:
        """A list or an object; of a list its scalar members count."""
        if not isinstance(value, list):
            self.kinds.add(OBJECT)
            return
        if self.members is None:
            self.members = Values()
        scalars = [member for member in value if isinstance(member, str | int | float)]
        for member in scalars:
            self.members.put(row, member)
        if not scalars:
            self.kinds.add(LIST)

    def settle(self) -> None:
        self.present.update(self.new_rows)
        self.new_rows.clear()
        self.scalars.settle()
        if self.members is not None:
            self.members.settle()

    def all_kinds(self) -> set[str]:
        members = self.members.kinds if self.members is not None else ()
        return self.kinds | self.scalars.kinds | {list_of(kind) for kind in members}


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
        fields = self._fields
        changed = set()
        for row, raw in enumerate(metadata, self._count):
            if raw is None:
                continue
            for name, value in orjson.loads(raw).items():
                if value is None:
                    continue
                field = fields.get(name) or self._new(name)
                if field is None:
                    continue
                changed.add(field)
                field.new_rows.append(row)
                if isinstance(value, str | int | float):
                    field.scalars.put(row, value)
                else:
                    field.put_other(row, value)
        for field in changed:
            field.settle()
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
                return field.scalars.any_of(values)
            case Range(_, gte, gt, lte, lt):
                low = LOWEST if gte is None else at_least(gte)
                high = HIGHEST if lte is None else at_most(lte)
                return field.scalars.between(
                    low if gt is None else above(gt), high if lt is None else below(lt)
                )
            case Exists():
                return field.present.copy()
            case Contains(_, value):
                return field.members.any_of([value]) if field.members is not None else BitMap()
        raise TypeError(f"want a filter's node, got {condition!r}")

    def kinds(self) -> dict[str, set[str]]:
        """Field -> kinds of the values seen, as in contracts/filter_nodes.py; null is none.

        A list has the kinds of its members: "list of string"; "list" alone has no scalar.
        """
        return {name: field.all_kinds() for name, field in self._fields.items()}

    def _new(self, name: str) -> _Field | None:
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
