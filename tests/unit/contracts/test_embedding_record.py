"""The bytes of an embedding record: a golden record of version 1, and records that are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import RejectedRecord, SpaceMismatch
from contracts.events.embedding_record import (
    decode_embedding,
    embedding_record,
    encode_embedding,
    read_embedding,
)
from contracts.events.record import Record, Source
from contracts.score import unit
from contracts.space import Space

SPACE = Space("golden-v1", "model", "rev", "prep", 4)
# These bytes are fixed: a change would break every deployed index and reader.
GOLDEN = bytes.fromhex(
    "544c4501258c9333498518a704000000"  # magic, fingerprint, dim, zero
    "0038003800380038"  # four times 0.5 in float16
) + (b'{"item":"i","text":"a cat","metadata":{"n":1}}')


def test_golden_bytes() -> None:
    vector = unit(np.ones(4))
    value = encode_embedding(SPACE, vector, item="i", text="a cat", metadata={"n": 1})
    assert value == GOLDEN
    decoded, body = decode_embedding(SPACE, GOLDEN)
    assert decoded.tolist() == [0.5] * 4
    assert body == {"item": "i", "text": "a cat", "metadata": {"n": 1}}


@given(
    st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(any),
    st.none() | st.text(min_size=1).filter(lambda t: t.isprintable()),
)
def test_round_trip(numbers: list[float], text: str | None) -> None:
    if np.linalg.norm(numbers) == 0:
        return
    vector = unit(numbers)
    decoded, body = decode_embedding(SPACE, encode_embedding(SPACE, vector, text=text))
    assert decoded.tobytes() == vector.tobytes()
    assert body.get("text") == text


@given(st.binary(max_size=80))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    with pytest.raises((RejectedRecord, SpaceMismatch)):
        decode_embedding(SPACE, raw)


@given(st.integers(0, len(GOLDEN) - 1))
def test_torn_values_are_refused(length: int) -> None:
    with pytest.raises(RejectedRecord):
        decode_embedding(SPACE, GOLDEN[:length])


def test_another_space_is_named() -> None:
    other = Space("golden-v1", "model", "rev2", "prep", 4)
    with pytest.raises(SpaceMismatch, match=f"{SPACE.fingerprint.hex()}.*golden-v1"):
        decode_embedding(other, GOLDEN)


def test_a_vector_must_fit_the_space() -> None:
    with pytest.raises(ValueError, match="float16"):
        encode_embedding(SPACE, np.ones(3, np.float16))


def content(value: bytes | None) -> Record:
    return Record("tidelens.captions", 2, 7, 1234, b"a", value)


def test_records_carry_source_and_reason() -> None:
    source = Source("abc", 2, 7)
    out = embedding_record("e", content(b""), source, None, reason="image_broken: torn")
    read = read_embedding(SPACE, Record("e", 2, 0, 9, out.key, out.value, out.headers))
    assert (read.source, read.appended_ms, read.vector) == (source, 1234, None)
    assert read.reason == "image_broken: torn"
    assert out.partition == 2


@pytest.mark.parametrize("raw", [b"", b"a:b", b"a:1:x", b"\xff:1:2"])
def test_a_bad_source_is_refused(raw: bytes) -> None:
    record = Record("e", 0, 0, 0, b"a", GOLDEN, [("source", raw)])
    with pytest.raises(RejectedRecord, match=r".*"):
        read_embedding(SPACE, record)
