"""The digest of the state (invariant 11): equal offsets have equal digests on every node.

The digest of a partition is the sum mod 2^128 of a hash of each live item. As it is a sum, putting
and removing cost one hash each, and the order in which items came does not matter. Hashes are kept
beside the rows as four little-endian 32-bit limbs, so that a batch is summed in one step.
"""

import hashlib

import numpy as np
import orjson
from numpy.typing import NDArray

from contracts.topics import Target

Hashes = NDArray[np.uint32]

_MODULUS = 1 << 128


def item_hash(
    target: Target,
    item_id: str,
    source: tuple[str, int, int],
    vector: bytes,
    item: str | None,
    text: str | None,
    metadata: bytes | None,
) -> bytes:
    """Return 128 bits of BLAKE2b over the item's canonical bytes.

    `source` is topic id, partition and offset; `vector` little-endian float16; `metadata` canonical
    JSON (`canonical_metadata`). The bytes are a JSON list of the other arguments, the metadata and
    the vector, in this order. Each of the two JSON texts ends where its bracket closes, and the
    vector is the rest, so no two items share their bytes.
    """
    head = orjson.dumps([target, item_id, *source, item, text])
    return hashlib.blake2b(b"".join((head, metadata or b"{}", vector)), digest_size=16).digest()


def canonical_metadata(metadata: object) -> bytes:
    """Return the JSON of `metadata` with sorted keys."""
    dumped = orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS)
    # A copy: orjson's own result keeps its buffer of 4 KiB, and these bytes stay with the row.
    return memoryview(dumped).tobytes()


def stack_hashes(hashes: list[bytes]) -> Hashes:
    """Return hashes of 16 bytes each as limbs: shape (n, 4)."""
    return np.frombuffer(b"".join(hashes), "<u4").reshape(-1, 4)


def sum_of_hashes(hashes: Hashes) -> int:
    """Return the sum of hashes (n, 4), for n below 2^32."""
    return sum(int(limb) << (32 * i) for i, limb in enumerate(hashes.sum(axis=0, dtype=np.uint64)))


def add_digests(digest: int, change: int) -> int:
    """Return the sum mod 2^128; `change` is negative for items that are taken out."""
    return (digest + change) % _MODULUS


def digest_text(digest: int) -> str:
    """Return a digest as 32 hexadecimal digits."""
    return f"{digest:032x}"
