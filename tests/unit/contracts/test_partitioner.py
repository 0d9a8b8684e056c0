"""Partitioners against values that Kafka's own clients give."""

import subprocess
import sys
import zlib

import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.partitioner import murmur2, partitioner


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


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * 7)
def test_murmur2_is_aiokafkas(key: bytes) -> None:
    assert murmur2(key) == murmur2_of_aiokafka(key)


def test_settings_and_partitioners_load_no_kafka_client() -> None:
    code = "import contracts.settings, contracts.partitioner, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    names = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert "contracts" in names
    assert not names & {"aiokafka", "faust", "mode", "kafka"}
