"""The maps from ids to rows: dictionaries of growing rows, and sorted hashes of sealed ones.

A dictionary of a million ids takes 180 MB and a tenth of a second to fill or to free, during which
nothing else runs. A sealed segment's ids never change, so sorted 64-bit hashes suffice: 12 MB,
made by the process that builds the segment, and looked up for a whole batch at once.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# Each dictionary is freed at once: one with 16,000 of a million ids in a millisecond.
_SHARDS = 64


class GrowingIdMap:
    """A map from ids to addresses of rows, spread over dictionaries so that each stays small."""

    def __init__(self) -> None:
        self._shards: list[dict[str, int]] = [{} for _ in range(_SHARDS)]

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def get(self, item_id: str) -> int | None:
        """Return the address of an id, or None."""
        return self._shards[hash(item_id) % _SHARDS].get(item_id)

    def pop(self, item_id: str) -> int | None:
        """Return the address of an id, or None, and forget it."""
        return self._shards[hash(item_id) % _SHARDS].pop(item_id, None)

    def shards(self) -> Sequence[dict[str, int]]:
        """Return the dictionaries."""
        return self._shards

    def put(self, ids: Sequence[str], addresses: Iterable[int]) -> None:
        """Set the address of each id."""
        shards = self._shards
        for item_id, address in zip(ids, addresses, strict=True):
            shards[hash(item_id) % _SHARDS][item_id] = address


class SealedIdLookup:
    """The rows of a sealed segment by id.

    `hashes` (n,) are those of the ids, ascending; `rows` (n,) are the row numbers in that order.
    """

    def __init__(
        self, hashes: NDArray[np.uint64], rows: NDArray[np.uint32], ids: Sequence[str]
    ) -> None:
        self._hashes = hashes
        self._rows = rows
        self._ids = ids

    def find(
        self, ids: Sequence[str], hashes: NDArray[np.uint64], bits: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Return the live row of each id, or -1: shape (len(ids),).

        `hashes` are those of `ids`. An id may have several rows, of which at most one is live, that
        is, set in the bitmap `bits`.
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
    """Return 64 bits of BLAKE2b for each id: shape (n,). They are stored, so they never change."""
    digest = hashlib.blake2b
    raw = b"".join(
        [
            digest(item_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            for item_id in ids
        ]
    )
    return np.frombuffer(raw, "<u8")


def sorted_hashes(ids: Iterable[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Return the arguments of `SealedIdLookup`: hashes ascending (n,), and their rows (n,)."""
    hashes = hashes_of(ids)
    order = np.argsort(hashes, kind="stable")
    return hashes[order], order.astype(np.uint32)
