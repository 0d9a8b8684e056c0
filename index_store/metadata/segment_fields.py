"""The metadata index of one segment's rows, which catches up with them when a filter needs it."""

import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
import pyroaring
from numpy.typing import NDArray

from contracts.filters.nodes import Filter
from index_store.metadata import field_scan
from index_store.metadata.field_index import FieldIndex, RowsByType, live_types
from index_store.metadata.metadata_index import MetadataIndex
from index_store.segment.rows import Rows

_FILTERS_KEPT = 64
# Rows taken in at a time: about 2 ms of work.
_CATCH_UP_ROWS = 512

# Called with the number of rows whose metadata was read because a field has no index.
OnRowsRead = Callable[[int], None]
Selected = tuple[pyroaring.BitMap, Mapping[str, frozenset[str]]]


class SegmentFields:
    """The metadata index of one segment, for any thread. Its lock is held for quick steps only."""

    def __init__(self, rows: Rows, fields: MetadataIndex | None = None) -> None:
        self._rows = rows
        self._fields = MetadataIndex() if fields is None else fields
        self._lock = threading.Lock()
        # Filter -> the number of rows then, the rows that match, and each field's rows by type.
        self._found: dict[object, tuple[int, pyroaring.BitMap, Mapping[str, RowsByType]]] = {}

    def select(self, condition: Filter, alive: NDArray[np.uint8], reads: OnRowsRead) -> Selected:
        """Return the rows that match a filter, and the JSON types that its fields have.

        The rows may be deleted, or newer than a view. The types of each field are those in the rows
        of the bitmap `alive`. `reads` is called as `OnRowsRead` says.
        """
        read: dict[str, FieldIndex] = {}
        done = 0
        while True:
            with self._lock:
                count = self._catch_up()
                known = self._found.get(condition.key)
                missing = self._fields.missing(condition)
                unread = [name for name in missing if name not in read]
                if not unread or (known is not None and known[0] == count):
                    return self._selected(condition, count, read, done, alive)
            # Rows never change, so the slow part needs no lock.
            field_scan.extend(read, self._rows.metadata, done, count)
            read |= field_scan.scan(
                self._rows.metadata, 0, count, unread, terms_max=self._fields.terms_max
            )
            done = count
            reads(count)

    def needs_scan(self, condition: Filter) -> bool:
        """Return whether `select` would read rows.

        It is a guess, made without the lock, which may be held for some time.
        """
        known = self._found.get(condition.key)
        is_known = known is not None and known[0] == len(self._rows)
        return not is_known and bool(self._fields.missing(condition))

    def _selected(
        self,
        condition: Filter,
        count: int,
        read: dict[str, FieldIndex],
        done: int,
        alive: NDArray[np.uint8],
    ) -> Selected:
        """Answer `select` under the lock; `read` holds fields of the first `done` rows."""
        known = self._found.get(condition.key)
        if known is None or known[0] != count:
            if read:
                field_scan.extend(read, self._rows.metadata, done, count)
            asked = self._fields.mark_used(condition, read)
            matching = self._fields.select(condition, read)
            rows_by_type = {name: field.rows_by_type for name, field in asked.items()}
            self._fields.add_fields(read)
            if len(self._found) >= _FILTERS_KEPT:
                self._found.clear()
            known = self._found[condition.key] = count, matching, rows_by_type
        return known[1], {
            name: live_types(rows_by_type, alive) for name, rows_by_type in known[2].items()
        }

    def _catch_up(self) -> int:
        count = len(self._rows)
        done = len(self._fields)
        for start in range(done, count, _CATCH_UP_ROWS):
            end = min(count, start + _CATCH_UP_ROWS)
            self._fields.extend(self._rows.metadata[start:end])
            # This is plain Python, so let other threads have the interpreter between slices.
            time.sleep(0)
        return count
