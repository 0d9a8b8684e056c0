"""Where ids stand: in a few dictionaries while rows are growing, in sorted hashes once sealed.

A dictionary of a million ids takes 180 MB and a tenth of a second to fill or to free, during which
nothing else runs. A sealed segment's ids never change, so their 64-bit hashes, sorted, do: 12 MB,
made by the process that builds the segment, and looked up for a whole batch at once.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# Each of these is freed at once: 16,000 of a million ids, a millisecond.
_SHARDS = 64


class GrowingIdMap:
    """id -> place, spread over dictionaries so that none is ever large."""

    def __init__(self) -> None:
        self._shards: list[dict[str, int]] = [{} for _ in range(_SHARDS)]

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def get(self, item_id: str) -> int | None:
        return self._shards[hash(item_id) % _SHARDS].get(item_id)

    def pop(self, item_id: str) -> int | None:
        return self._shards[hash(item_id) % _SHARDS].pop(item_id, None)

    def shards(self) -> Sequence[dict[str, int]]:
        return self._shards

    def put(self, ids: Sequence[str], places: Iterable[int]) -> None:
        shards = self._shards
        for item_id, place in zip(ids, places, strict=True):
            shards[hash(item_id) % _SHARDS][item_id] = place


class SealedIdLookup:
    """Row numbers by id. `hashes` ascend; `rows` are the row numbers in that order."""

    def __init__(
        self, hashes: NDArray[np.uint64], rows: NDArray[np.uint32], ids: Sequence[str]
    ) -> None:
        self._hashes = hashes
        self._rows = rows
        self._ids = ids

    def find(
        self, ids: Sequence[str], hashes: NDArray[np.uint64], bits: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """The row number of each id, -1 where there is none: shape (len(ids),).

        Of several rows of one id the one that is set in `bits`: at most one is live.
        """
        found = np.full(len(ids), -1, np.int64)
        if not len(self._hashes):
            return found
        starts = np.searchsorted(self._hashes, hashes)
        here = self._hashes[np.minimum(starts, len(self._hashes) - 1)] == hashes
        for n in np.flatnonzero(here).tolist():
            found[n] = self._exact(ids[n], int(starts[n]), hashes[n], bits)
        return found

    def _exact(self, item_id: str, start: int, hashed: np.uint64, bits: NDArray[np.uint8]) -> int:
        while start < len(self._hashes) and self._hashes[start] == hashed:
            row = int(self._rows[start])
            if bits[row >> 3] >> (row & 7) & 1 and self._ids[row] == item_id:
                return row
            start += 1
        return -1


def hashes_of(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of BLAKE2b for each id: the same on every machine, since they are stored."""
    digest = hashlib.blake2b
    raw = b"".join(
        [
            digest(item_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            for item_id in ids
        ]
    )
    return np.frombuffer(raw, "<u8")


def sorted_hashes(ids: Iterable[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """What SealedIds takes: hashes ascending, and their row numbers."""
    hashes = hashes_of(ids)
    order = np.argsort(hashes, kind="stable")
    return hashes[order], order.astype(np.uint32)
