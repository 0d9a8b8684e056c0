"""The partition of an id: one function, so that producers and readers agree.

The default is that of Kafka's Java client: murmur2 of the key's bytes. Streams written with
librdkafka's default partitioner need TIDELENS_PARTITIONER=crc32.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Literal

PartitionerName = Literal["murmur2", "crc32"]
Partitioner = Callable[[bytes, int], int]

# The constants of org.apache.kafka.common.utils.Utils.murmur2.
_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_UINT32 = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Return Kafka's 32-bit murmur2 of `key`, unsigned where Java has it signed.

    It is written out here, although aiokafka has it, so that this room needs no Kafka client.
    """
    words, rest = len(key) // 4, len(key) % 4
    hashed = _SEED ^ len(key)
    for word in struct.unpack_from(f"<{words}I", key):
        mixed = word * _MULTIPLIER & _UINT32
        mixed = (mixed ^ mixed >> 24) * _MULTIPLIER & _UINT32
        hashed = hashed * _MULTIPLIER & _UINT32 ^ mixed
    if rest:
        hashed = (hashed ^ int.from_bytes(key[-rest:], "little")) * _MULTIPLIER & _UINT32
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _UINT32
    return hashed ^ hashed >> 15


def _murmur2(key: bytes, partitions: int) -> int:
    # Java masks the sign bit away: org.apache.kafka.common.utils.Utils.toPositive.
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def _crc32(key: bytes, partitions: int) -> int:
    return zlib.crc32(key) % partitions


def partitioner(name: PartitionerName) -> Partitioner:
    """Return the function (key, number of partitions) -> partition of this name."""
    return {"murmur2": _murmur2, "crc32": _crc32}[name]
