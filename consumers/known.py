"""Vectors by the digest of what they were made of: the same bytes are encoded once.

A metadata-only update of a picture is the same bytes again, and so are most re-publishings.
"""

import hashlib
from collections import OrderedDict

from contracts.score import Vectors


def digest_of_text(text: str) -> bytes:
    return b"t" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def digest_of_image(data: bytes) -> bytes:
    return digest_of_sha256(hashlib.sha256(data).hexdigest())


def digest_of_sha256(sha256: str) -> bytes:
    """For a picture whose SHA-256 was published with its reference."""
    return b"i" + bytes.fromhex(sha256)


class KnownVectors:
    """The vectors of one space that were made or asked for last, `entries_max` of them."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, digest: bytes) -> Vectors | None:
        vector = self._vectors.get(digest)
        if vector is not None:
            self._vectors.move_to_end(digest)
        return vector

    def put(self, digest: bytes, vector: Vectors) -> None:
        # A copy: a row alone would keep its whole batch in memory.
        self._vectors[digest] = vector.copy()
        self._vectors.move_to_end(digest)
        while len(self._vectors) > self._entries_max:
            self._vectors.popitem(last=False)
