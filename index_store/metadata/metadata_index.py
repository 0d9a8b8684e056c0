"""The value index of rows' metadata: it turns a filter into the bitmap of the rows that match.

`Filter.matches` (contracts/filters/nodes.py) defines what a filter means; this index gives the same
result for all rows at once, with no Python for each row. index_store/metadata/value_index.py says
how values are kept.

Publishers choose the names of fields, so there may be more of them than an index can hold.
What is kept is bounded, in bytes for each row, so that the sum over all rows is too: the fields
that filters asked for last come first, then those that most rows have. A field that is left out is
read from the rows when a filter asks for it (index_store/metadata/field_scan.py), and kept from
then on in place of what nobody asked for. So nothing that is published changes what a filter
answers.

Measured (one core): five fields, one of them a list of two strings and one a number, take 30 bytes
a row; with a URL and a random number in each row 63 to 75. 250,000 rows/s are taken in. A filter
over a million rows takes 0.02 ms by value, 0.1 to 6 ms by range, as many rows pass.
"""

from collections.abc import Mapping, Sequence
from heapq import nlargest
from itertools import count
from typing import Any

import orjson
from pyroaring import BitMap

from contracts.filters.json_form import FIELD_CHARS_MAX
from contracts.filters.nodes import And, Filter, Not, Or
from index_store.metadata.field_index import FieldIndex
from index_store.metadata.value_index import TERMS_MAX

# The number of fields that have an index, however few rows they are in.
FIELDS_MAX = 1000
# Bytes for each row: as many as a vector of 512 dimensions takes. For few rows there is a minimum:
# about the bytes of that many fields.
ROW_BYTES_MAX = 1024
BYTES_MIN = 2_000_000
# Names remembered of fields that were left out. Without more of them, any other name is in no row.
LEFT_OUT_MAX = 1000
# Rows parsed at a time, which bounds the memory of their values.
_SLICE_ROWS = 8192
# A full index is emptied to this share, so that not every slice has to empty it.
_KEPT_SHARE = 0.875

_Columns = dict[str, tuple[list[int], list[Any]]]


class MetadataIndex:
    """An index of rows 0, 1, 2, ... by the values of their metadata.

    It is not safe for several threads at once: callers that share it hold a lock around every call.
    Each field that it begins has the limit `terms_max` of FieldIndex.
    """

    def __init__(
        self,
        *,
        fields_max: int = FIELDS_MAX,
        bytes_min: int = BYTES_MIN,
        row_bytes_max: int = ROW_BYTES_MAX,
        terms_max: int = TERMS_MAX,
    ) -> None:
        self._fields_max = fields_max
        self._bytes_min = bytes_min
        self._row_bytes_max = row_bytes_max
        self.terms_max = terms_max
        self._count = 0
        self._fields: dict[str, FieldIndex] = {}
        self._nbytes = 0
        # It is None when there are too many to remember.
        self._left_out: set[str] | None = set()
        self._clock = count(1)

    def __len__(self) -> int:
        """Return the number of rows taken in."""
        return self._count

    @property
    def bytes_max(self) -> int:
        """Return the bytes that the index may take."""
        return max(self._bytes_min, self._row_bytes_max * self._count)

    @property
    def nbytes(self) -> int:
        """Return about how many bytes it takes."""
        return self._nbytes

    def extend(self, metadata: Sequence[bytes | None]) -> None:
        """Append a row for each: the JSON object of its metadata, or None."""
        for start in range(0, len(metadata), _SLICE_ROWS):
            self._extend(metadata[start : start + _SLICE_ROWS])

    def _extend(self, metadata: Sequence[bytes | None]) -> None:
        columns: _Columns = {}
        for row, raw in enumerate(metadata, self._count):
            if raw is None:
                continue
            for name, value in orjson.loads(raw).items():
                if value is None:
                    continue
                column = columns.get(name)
                if column is None:
                    column = columns[name] = ([], [])
                column[0].append(row)
                column[1].append(value)
        self._count += len(metadata)
        self._make_fields(columns)
        for name, (rows, values) in columns.items():
            field = self._fields.get(name)
            if field is not None:
                self._nbytes -= field.nbytes
                field.extend(rows, values)
                self._nbytes += field.nbytes
        self._shrink()

    def missing(self, condition: Filter) -> list[str]:
        """List the condition's fields that rows may have and that have no index: read these."""
        left_out = self._left_out
        return [
            name
            for name in condition.fields()
            if name not in self._fields and (left_out is None or name in left_out)
        ]

    def select(self, condition: Filter, read: Mapping[str, FieldIndex] | None = None) -> BitMap:
        """Return the rows that match, in a bitmap that is the caller's own. A field that no row has
        matches nothing. `read` holds those of the condition's fields that are missing here.
        """
        match condition:
            case And(parts):
                first, *rest = [self.select(part, read) for part in parts]
                return first.intersection(*rest)
            case Or(parts):
                return BitMap().union(*[self.select(part, read) for part in parts])
            case Not(part):
                return self.select(part, read).flip(0, self._count)
        (name,) = condition.fields()
        field = self._fields.get(name) or (read or {}).get(name)
        return BitMap() if field is None else field.select(condition)

    def mark_used(
        self, condition: Filter, read: Mapping[str, FieldIndex] | None = None
    ) -> dict[str, FieldIndex]:
        """Return the fields of `condition` that rows have, and note them as used, to be kept."""
        found: dict[str, FieldIndex] = {}
        for name in condition.fields():
            field = self._fields.get(name) or (read or {}).get(name)
            if field is not None:
                field.last_used = next(self._clock)
                found[name] = field
        return found

    def add_fields(self, read: Mapping[str, FieldIndex]) -> None:
        """Keep fields that were read from all rows, in place of those used longest ago."""
        for name, field in read.items():
            if name not in self._fields:
                self._add(name, field)
        self._shrink()

    def _make_fields(self, columns: _Columns) -> None:
        """Begin fields for new names as far as there is room, those with most rows first."""
        # A field that was left out before would lack its earlier rows.
        new = [
            name
            for name in columns
            if name not in self._fields
            and len(name) <= FIELD_CHARS_MAX  # a longer one cannot be asked for
            and self._left_out is not None
            and name not in self._left_out
        ]
        if len(self._fields) + len(new) > self._fields_max:
            # The new ones first: of equal ranks the first are taken.
            ranks = {name: (0, len(columns[name][0])) for name in new}
            for name, field in self._fields.items():
                more = len(columns[name][0]) if name in columns else 0
                ranks[name] = field.last_used, field.rows + more
            kept = set(nlargest(self._fields_max, ranks, key=ranks.__getitem__))
            for name in ranks.keys() - kept:
                self._leave_out(name)
            new = [name for name in new if name in kept]
        for name in new:
            self._add(name, FieldIndex(terms_max=self.terms_max))

    def _shrink(self) -> None:
        """Drop what is too much, beginning with fields used longest ago and in the fewest rows."""
        limit = self.bytes_max
        if self._nbytes <= limit and len(self._fields) <= self._fields_max:
            return
        limit = int(_KEPT_SHARE * limit)
        ranks = {
            # A field that is too large by itself goes first, or it would push out all others.
            name: (field.nbytes <= limit, field.last_used, field.rows)
            for name, field in self._fields.items()
        }
        for name in sorted(ranks, key=ranks.__getitem__):
            if self._nbytes <= limit and len(self._fields) <= self._fields_max:
                break
            self._leave_out(name)

    def _add(self, name: str, field: FieldIndex) -> None:
        self._fields[name] = field
        self._nbytes += field.nbytes

    def _leave_out(self, name: str) -> None:
        field = self._fields.pop(name, None)
        if field is not None:
            self._nbytes -= field.nbytes
            if not field.rows:
                return
        if self._left_out is not None:
            self._left_out.add(name)
            if len(self._left_out) > LEFT_OUT_MAX:
                self._left_out = None
