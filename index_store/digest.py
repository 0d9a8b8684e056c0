"""The state's digest (invariant 11): equal offsets must have equal digests, whatever the path.

Per partition, the sum mod 2^128 of a hash of each live item. A sum, so that putting and removing
cost one hash each and the order in which items came does not matter. Hashes are kept beside the
rows as four little-endian 32-bit limbs, so that a batch is summed in one step.
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
    """128 bits of BLAKE2b over the item's canonical bytes.

    `source` is topic id, partition, offset; `vector` little-endian float16; `metadata` canonical
    JSON (`canonical_metadata`). The first two parts end where their JSON ends and the third has a
    fixed length, so no two items share their bytes.
    """
    head = orjson.dumps([target, item_id, *source, item, text])
    return hashlib.blake2b(b"".join((head, metadata or b"{}", vector)), digest_size=16).digest()


def canonical_metadata(metadata: object) -> bytes:
    """JSON with sorted keys, however they came."""
    dumped = orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS)
    # A copy: orjson's own result keeps its buffer of 4 KiB, and these bytes stay with the row.
    return memoryview(dumped).tobytes()


def stack_hashes(hashes: list[bytes]) -> Hashes:
    """Shape (n, 4)."""
    return np.frombuffer(b"".join(hashes), "<u4").reshape(-1, 4)


def sum_of_hashes(hashes: Hashes) -> int:
    """The sum of (n, 4) hashes; n below 2^32."""
    return sum(int(limb) << (32 * i) for i, limb in enumerate(hashes.sum(axis=0, dtype=np.uint64)))


def add_digests(digest: int, change: int) -> int:
    """`change` may be negative: what is taken out."""
    return (digest + change) % _MODULUS


def digest_text(digest: int) -> str:
    """32 hexadecimal digits."""
    return f"{digest:032x}"
