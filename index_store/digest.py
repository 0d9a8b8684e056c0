"""The state's digest (invariant 11): equal offsets must have equal digests, whatever the path.

Per partition, the sum mod 2^128 of a hash of each live item. A sum, so that putting and removing
cost one hash each and the order in which items came does not matter.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from contracts.records import Source
from contracts.topics import Target

_MODULUS = 1 << 128


def item_hash(
    target: Target,
    item_id: str,
    source: Source,
    vector: bytes,
    item: str | None,
    text: str | None,
    metadata: Mapping[str, Any] | None,
) -> int:
    """128 bits of BLAKE2b over the item's canonical bytes; `vector` is little-endian float16."""
    parts = orjson.dumps(
        [target, item_id, source.topic_id, source.partition, source.offset, item, text, metadata],
        option=orjson.OPT_SORT_KEYS,
    )
    digest = hashlib.blake2b(parts, digest_size=16)
    digest.update(vector)
    return int.from_bytes(digest.digest(), "little")


def add(total: int, item: int) -> int:
    return (total + item) % _MODULUS


def subtract(total: int, item: int) -> int:
    return (total - item) % _MODULUS


def text_of(total: int) -> str:
    """32 hexadecimal digits."""
    return f"{total:032x}"
