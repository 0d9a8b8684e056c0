"""Vectors by the digest of what they were made of: the same bytes are encoded once.

A metadata-only update of a picture is the same bytes again, and so are most re-publishings.
"""

import hashlib
from collections import OrderedDict

import numpy as np

from contracts.score import Vectors


def digest_of_text(text: str) -> bytes:
    return b"t" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def digest_of_image(data: bytes) -> bytes:
    return digest_of_sha256(hashlib.sha256(data).hexdigest())


def digest_of_sha256(sha256: str) -> bytes:
    """For a picture whose SHA-256 was published with its reference."""
    return b"i" + bytes.fromhex(sha256)


class VectorCache:
    """The vectors of one space that were made or asked for last, `entries_max` of them.

    They lie in one array: tens of thousands of small blocks between the passing ones of records
    and pictures kept glibc from re-using the room of those (.3 GB after 100,000 records).
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._places: OrderedDict[bytes, int] = OrderedDict()
        self._rows: Vectors | None = None

    def __len__(self) -> int:
        return len(self._places)

    def get(self, digest: bytes) -> Vectors | None:
        """A copy, since its place may become another one's."""
        place = self._places.get(digest)
        if place is None or self._rows is None:
            return None
        self._places.move_to_end(digest)
        row: Vectors = self._rows[place].copy()
        return row

    def put(self, digest: bytes, vector: Vectors) -> None:
        if not self._entries_max:
            return
        if self._rows is None:
            # Memory that nothing was written to costs nothing yet.
            self._rows = np.empty((self._entries_max, len(vector)), vector.dtype)
        place = self._places.pop(digest, None)
        if place is None and len(self._places) < self._entries_max:
            place = len(self._places)
        elif place is None:
            _, place = self._places.popitem(last=False)
        self._places[digest] = place
        self._rows[place] = vector
