"""A cache of vectors by the digest of their input, so that the same bytes are encoded once.

An update of a picture's metadata publishes the same bytes again, and so do most re-publications.
"""

import hashlib

import numpy as np
from cachetools import LRUCache

from contracts.score import Vectors


def digest_of_text(text: str) -> bytes:
    """Return the key of a caption; lone surrogates are allowed."""
    return b"t" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def digest_of_image(data: bytes) -> bytes:
    """Return the key of a picture, given its bytes as they were published or downloaded."""
    return digest_of_sha256(hashlib.sha256(data).hexdigest())


def digest_of_sha256(sha256: str) -> bytes:
    """Return the key of a picture whose SHA-256, in hex, was published with its reference."""
    return b"i" + bytes.fromhex(sha256)


class VectorCache:
    """The `entries_max` vectors of one space that were put or asked for last.

    They lie in one array. As small blocks of their own, between the short-lived ones of records and
    pictures, they kept glibc from reusing that memory (0.3 GB after 100,000 records).
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._row_of: LRUCache[bytes, int] = LRUCache(entries_max)
        self._rows: Vectors | None = None

    def __len__(self) -> int:
        return len(self._row_of)

    def get(self, digest: bytes) -> Vectors | None:
        """Return a copy of the vector, (dim,) float16, or None: its row may be overwritten."""
        row = self._row_of.get(digest)
        if row is None or self._rows is None:
            return None
        vector: Vectors = self._rows[row].copy()
        return vector

    def put(self, digest: bytes, vector: Vectors) -> None:
        """Keep a vector, (dim,) float16; the entry that was used least recently makes room."""
        if not self._entries_max:
            return
        if self._rows is None:
            # Memory that nothing was written to costs nothing yet.
            self._rows = np.empty((self._entries_max, len(vector)), vector.dtype)
        row = self._row_of.get(digest)
        if row is None:
            full = len(self._row_of) == self._entries_max
            row = self._row_of.popitem()[1] if full else len(self._row_of)
            self._row_of[digest] = row
        self._rows[row] = vector
