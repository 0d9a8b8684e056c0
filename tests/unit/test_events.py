"""Content events: what is accepted, and the reason each bad record gets."""

import base64

import orjson
import pytest

from contracts.errors import RejectedRecord
from contracts.events import (
    Content,
    content_record,
    delete_record,
    id_of_key,
    read_content,
)
from contracts.records import OutRecord, Record


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


def test_a_lone_surrogate_is_no_id() -> None:
    with pytest.raises(RejectedRecord):
        delete_record("t", "\ud800")
    assert id_of_key("é".encode()) == "é"
