"""Which partition an id lives in: one place, so that producers and readers agree.

The default is Java's: murmur2 of the key's bytes. Streams written by librdkafka's default
partitioner set TIDELENS_PARTITIONER=crc32.
"""

import zlib
from collections.abc import Callable
from typing import Literal

from aiokafka.partitioner import murmur2

PartitionerName = Literal["murmur2", "crc32"]
Partitioner = Callable[[bytes, int], int]


def _murmur2(key: bytes, partitions: int) -> int:
    # Java masks the sign bit away: org.apache.kafka.common.utils.Utils.toPositive.
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def _crc32(key: bytes, partitions: int) -> int:
    return zlib.crc32(key) % partitions


def partitioner(name: PartitionerName) -> Partitioner:
    """A function (key, number of partitions) -> partition."""
    return {"murmur2": _murmur2, "crc32": _crc32}[name]
