"""Partitioners against values that Kafka's own clients give."""

import zlib

import pytest

from contracts.partitioning import partitioner


# From the tests of Kafka's Java client (UtilsTest.testMurmur2): murmur2 of these bytes.
@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, murmur2: int) -> None:
    for count in (1, 4, 7, 4096):
        assert partitioner("murmur2")(key, count) == (murmur2 & 0x7FFFFFFF) % count


def test_crc32_is_librdkafkas() -> None:
    assert partitioner("crc32")(b"abc", 10) == zlib.crc32(b"abc") % 10
