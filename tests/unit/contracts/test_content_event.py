"""Content events: the records that are accepted, and the reason for each refusal."""

import base64
from typing import Any

import orjson
import pytest

from contracts.errors import RejectedRecord
from contracts.events.content_body import METADATA_BYTES_MAX, METADATA_DEPTH_MAX, METADATA_NAMES_MAX
from contracts.events.content_event import (
    Content,
    content_record,
    delete_record,
    id_of_key,
    read_content,
)
from contracts.events.record import OutRecord, Record


def record(
    value: bytes | None,
    *,
    key: bytes | None = b"a",
    kind: str | None = "tidelens.caption.v1",
    content_type: str = "application/json",
    more: tuple[tuple[str, bytes], ...] = (),
) -> Record:
    headers = [("content-type", content_type.encode()), *more]
    if kind is not None:
        headers.append(("ce_type", kind.encode()))
    return Record("t", 0, 0, 0, key, value, headers)


def as_read(out: OutRecord) -> Record:
    return Record(out.topic, 0, 0, 0, out.key, out.value, out.headers)


@pytest.mark.parametrize(
    "content",
    [
        Content(target="captions", id="a", text="a cat", item="i", metadata={"n": 1}),
        Content(target="captions", id="é/ü", text="x"),
        Content(target="images", id="a", image=b"\x89PNG", item="i", metadata={"n": [1]}),
        Content(target="images", id="a", ref="file:///a.png", sha256="0" * 64),
    ],
)
def test_what_is_published_is_what_is_read(content: Content) -> None:
    assert read_content(content.target, as_read(content_record("t", content))) == content


def test_an_image_may_come_in_json() -> None:
    body = {"image": {"data": base64.b64encode(b"bytes").decode()}, "item": "i"}
    read = read_content("images", record(orjson.dumps(body), kind="tidelens.image.v1"))
    assert read == Content(target="images", id="a", image=b"bytes", item="i")


def test_a_null_value_is_a_delete() -> None:
    assert read_content("captions", as_read(delete_record("t", "a"))) is None


def test_members_of_a_newer_writer_are_ignored() -> None:
    assert read_content("captions", record(b'{"text": "x", "new": 1}')) is not None


@pytest.mark.parametrize(
    ("code", "field", "bad"),
    [
        ("empty_id", "key", record(b"{}", key=b"")),
        ("empty_id", "key", record(b"{}", key=None)),
        ("id_not_utf8", "key", record(b"{}", key=b"\xff")),
        ("id_too_long", "key", record(b"{}", key=b"x" * 513)),
        ("not_a_cloudevent", "ce_type", record(b"{}", kind=None)),
        ("unknown_event_type", "ce_type", record(b"{}", kind="com.example.thing")),
        ("unknown_event_type", "ce_type", record(b"{}", kind="tidelens.image.v1")),
        ("unknown_event_version", "ce_type", record(b"{}", kind="tidelens.caption.v2")),
        ("invalid_json", "value", record(b"{")),
        ("invalid_content", "value", record(b"[]")),
        ("invalid_content", "text", record(b"{}")),
        ("invalid_content", "text", record(b'{"text": 7}')),
        ("invalid_content", "text", record(b'{"text": ""}')),
        ("invalid_content", "text", record(orjson.dumps({"text": "x" * 10_001}))),
        ("invalid_content", "item", record(b'{"text": "x", "item": 1}')),
        ("invalid_content", "metadata", record(b'{"text": "x", "metadata": []}')),
        ("content_type", "content-type", record(b"x", content_type="text/plain")),
        ("content_type", "content-type", record(b"x", content_type="image/png")),
    ],
)
def test_bad_records_get_their_reason(code: str, field: str, bad: Record) -> None:
    with pytest.raises(RejectedRecord) as caught:
        read_content("captions", bad)
    assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("invalid_content", {"image": {}}),
        ("invalid_content", {"image": {"data": ""}}),
        ("invalid_content", {"image": {"data": "", "ref": "file:///a"}}),
        ("invalid_content", {"image": {"ref": "file:///a"}}),
        ("invalid_content", {"image": {"ref": "file:///a", "sha256": "short"}}),
        ("invalid_base64", {"image": {"data": "!!"}}),
    ],
)
def test_bad_images_get_their_reason(code: str, body: dict[str, object]) -> None:
    with pytest.raises(RejectedRecord) as caught:
        read_content("images", record(orjson.dumps(body), kind="tidelens.image.v1"))
    assert caught.value.code == code


def test_metadata_has_a_limit() -> None:
    with pytest.raises(RejectedRecord, match="16384"):
        content_record(
            "t", Content(target="captions", id="a", text="x", metadata={"m": "y" * 20_000})
        )


def nested(levels: int) -> dict[str, Any]:
    """Return metadata with `levels` levels of nesting: an object, and lists in it."""
    value: Any = []
    for _ in range(levels - 2):
        value = [value]
    return {"m": value}


def test_metadata_has_a_limit_of_depth() -> None:
    metadata = nested(METADATA_DEPTH_MAX)
    made = content_record("t", Content(target="captions", id="a", text="x", metadata=metadata))
    read = read_content("captions", as_read(made))
    assert read is not None and read.metadata == metadata


@pytest.mark.parametrize(
    ("metadata", "limit", "value"),
    [
        (dict.fromkeys(map(str, range(METADATA_NAMES_MAX + 1)), 1), METADATA_NAMES_MAX, 101),
        (dict.fromkeys(map(str, range(1100))), METADATA_NAMES_MAX, 1100),
        ({"a": METADATA_BYTES_MAX * "x"}, METADATA_BYTES_MAX, METADATA_BYTES_MAX + 8),
    ],
)
def test_metadata_is_bounded_everywhere(metadata: dict[str, Any], limit: int, value: int) -> None:
    raw = orjson.dumps(metadata)
    image = {"kind": "tidelens.image.v1", "content_type": "image/png"}
    content = Content(target="captions", id="a", text="x", metadata=metadata)
    for refused in (
        lambda: read_content("captions", record(b'{"text": "x", "metadata": ' + raw + b"}")),
        lambda: read_content("images", record(b"png", **image, more=(("ce_metadata", raw),))),
        lambda: content_record("t", content),
    ):
        with pytest.raises(RejectedRecord) as caught:
            refused()
        error = caught.value
        assert (error.code, error.field) == ("invalid_content", "metadata")
        assert (error.limit, error.value) == (limit, value)
        assert str(limit) in error.message and str(value) in error.message


def test_metadata_may_have_as_many_names_as_the_limit_says_and_more_within_one() -> None:
    names = {str(n): 1 for n in range(METADATA_NAMES_MAX - 1)}
    metadata = {**names, "nested": {str(n): 1 for n in range(1100)}}
    made = content_record("t", Content(target="captions", id="a", text="x", metadata=metadata))
    read = read_content("captions", as_read(made))
    assert read is not None and read.metadata == metadata


# orjson reads up to 1,024 levels of nesting, and writes up to 254.
@pytest.mark.parametrize("levels", [METADATA_DEPTH_MAX + 1, 253, 254, 255, 1_000])
def test_metadata_that_is_too_deep_is_refused_everywhere(levels: int) -> None:
    raw = b'{"m":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    with pytest.raises(RejectedRecord) as in_json:
        read_content("captions", record(b'{"text": "x", "metadata": ' + raw + b"}"))
    with pytest.raises(RejectedRecord) as in_header:
        read_content(
            "images",
            record(
                b"bytes",
                kind="tidelens.image.v1",
                content_type="image/png",
                more=(("ce_metadata", raw),),
            ),
        )
    with pytest.raises(RejectedRecord) as made:
        content_record("t", Content(target="captions", id="a", text="x", metadata=nested(levels)))
    for caught in (in_json, in_header, made):
        assert (caught.value.code, caught.value.field) == ("invalid_content", "metadata")
        assert caught.value.message == "metadata: limit 32 levels, got more"


def test_a_lone_surrogate_is_no_id() -> None:
    with pytest.raises(RejectedRecord):
        delete_record("t", "\ud800")
    assert id_of_key("é".encode()) == "é"
