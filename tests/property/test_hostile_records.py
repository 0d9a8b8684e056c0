"""Any content record yields a vector or a tombstone, and stops no encoder.

Any bytes and any headers, and some that are nearly right, pass through the encoder's real steps.
"""

import asyncio
import base64
import io
from typing import Any

import orjson
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from consumers.encode_job import WRONG_PARTITION, encode_jobs, output_records, parse_record
from consumers.picture_fetch import PictureLoader
from contracts.errors import MESSAGE_CHARS_MAX
from contracts.events.content_event import EVENT_TYPES
from contracts.events.embedding_record import read_embedding
from contracts.events.record import OutRecord, Record
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS, Names, Target
from tests.kits.kafka import MURMUR2, decoded, intake, no_reference, none_allowed

ENCODER = HashEncoder(dim=8)
NAMES = Names("t.", ENCODER.space.name)
PARTITIONS = 2
LETTER_BYTES_MAX = 16_384
PICTURES = PictureLoader(no_reference, none_allowed, decoded)
INTAKE = intake(NAMES, PARTITIONS, letter_bytes_max=LETTER_BYTES_MAX)
# The item's embeddings live elsewhere, or it has no id that an embedding could have.
LETTER_ALONE = {WRONG_PARTITION, "empty_id", "id_not_utf8", "id_too_long"}


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def deep(levels: int) -> bytes:
    return b'{"m": ' + b"[" * levels + b"]" * levels + b"}"


def mostly(right: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> Any:
    return st.integers(0, 7).flatmap(lambda number: other if number == 7 else right)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
SIZE = st.integers(0, 2 * LETTER_BYTES_MAX)
DEEP = st.integers(0, 1_100).map(deep)
REFERENCE = st.builds(
    "{}{}".format,
    st.sampled_from(["file://[", "https://[", "s3:", "file:///", "file://localhost/", ""]),
    st.text(max_size=20) | SIZE.map(lambda size: "/" * size),
)
IMAGE = st.one_of(
    st.fixed_dictionaries({"ref": REFERENCE, "sha256": st.just("0" * 64)}),
    st.fixed_dictionaries({"data": st.sampled_from(["", "AA==", "iVBORw0KGgo=", "?"])}),
    st.fixed_dictionaries({"data": st.just(base64.b64encode(picture()).decode())}),
)
CONTENT: dict[Target, dict[str, Any]] = {
    "captions": {"text": mostly(st.text(min_size=1), JSON)},
    "images": {"image": mostly(IMAGE, JSON)},
}
KEY = mostly(
    st.text(min_size=1, max_size=30).map(str.encode),
    st.none() | st.binary() | SIZE.map(lambda size: b"k" * size),
)
BYTES = st.one_of(
    st.none(),
    st.binary(),
    JSON.map(orjson.dumps),
    SIZE.map(lambda size: b"x" * size),
    st.sampled_from([picture(), picture()[:40], b""]),
)
HEADER = st.one_of(
    st.just(("content-type", b"image/png")),
    st.tuples(st.just("ce_metadata"), JSON.map(orjson.dumps) | DEEP),
    st.tuples(
        st.sampled_from(["ce_type", "content-type", "ce_item", "ce_metadata"]),
        st.none() | st.binary() | SIZE.map(lambda size: b"\0" * size),
    ),
    st.tuples(st.text(), st.none() | st.binary()),
)


@st.composite
def bodies(draw: st.DrawFn, target: Target) -> bytes:
    """Draw JSON of the right form, whose metadata may be deeper than orjson writes."""
    body = draw(st.fixed_dictionaries(CONTENT[target], optional={"item": mostly(st.text(), JSON)}))
    metadata = draw(st.just(b"{}") | DEEP | JSON.map(orjson.dumps))
    return orjson.dumps(body)[:-1] + b', "metadata": ' + metadata + b"}"


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Most are right in all but one or two things, so that each thing is looked at."""
    target: Target = draw(st.sampled_from(TARGETS))
    key = draw(KEY)
    elsewhere = draw(mostly(st.just(0), st.just(1)))
    partition = (MURMUR2(key or b"", PARTITIONS) + elsewhere) % PARTITIONS
    value = draw(mostly(bodies(target), BYTES))
    headers: list[Any] = [("ce_type", EVENT_TYPES[target].encode())]
    headers += draw(mostly(st.just([]), st.lists(HEADER, min_size=1, max_size=4)))
    return Record(NAMES.content(target), partition, 7, 1_000, key, value, headers)


def record_bytes(record: OutRecord) -> int:
    return int(
        DefaultRecordBatchBuilder.estimate_size_in_bytes(
            record.key, record.value, list(record.headers)
        )
    )


# Without shrinking: each try logs what it finds, which takes minutes.
@settings(max_examples=300, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(records())
def test_a_record_becomes_one_vector_or_one_tombstone(record: Record) -> None:
    job = parse_record(record, INTAKE)
    if job.target == "images" and not job.is_done:
        asyncio.run(PICTURES.load(job))
    if not job.is_done:
        encode_jobs([job], ENCODER)
    written = output_records(job, ENCODER.space, INTAKE, "topic-id")
    letters = [out for out in written if out.topic == NAMES.dead_letters]
    embeddings = [out for out in written if out.topic == NAMES.embeddings(job.target)]
    assert len(letters) + len(embeddings) == len(written)
    assert len(letters) == (job.rejection is not None)
    if job.rejection is not None:
        # Everything that strangers can do has a reason of its own.
        assert job.rejection.code not in ("unreadable", "encode_failed"), job.rejection
    if job.rejection is not None and job.rejection.code in LETTER_ALONE:
        assert embeddings == []
    else:
        [out] = embeddings
        assert (out.key, out.partition) == (record.key, record.partition)
        read = read_embedding(
            ENCODER.space, Record(out.topic, 0, 0, 0, out.key, out.value, out.headers)
        )
        assert (read.vector is None) == (job.rejection is not None or record.value is None)
        assert (read.reason is None) == (job.rejection is None)
        assert len(read.reason or "") < MESSAGE_CHARS_MAX + 100
    for out in letters:
        assert record_bytes(out) <= LETTER_BYTES_MAX
        assert dict(out.headers).get("dead_letter_truncated") or out.value == record.value
