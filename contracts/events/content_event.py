"""Content events: what producers publish, as CloudEvents in Kafka's binary mode.

The key of a record is the item's id in UTF-8. The headers are `ce_specversion`, `ce_id`,
`ce_source`, `ce_type` and `content-type`. The value is one of the JSON bodies below, or the bytes
of the picture itself: `content-type` is then `image/...`, and `ce_item` and `ce_metadata` may hold
the other members. A null value deletes the item. An event is the whole state of its item, never a
patch.

The type is `tidelens.caption.v1` on the captions topic and `tidelens.image.v1` on the images topic.
"""

import re
import uuid
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import RejectedRecord
from contracts.events.content_body import (
    ID_BYTES_MAX,
    CaptionBody,
    ContentBody,
    ImageBody,
    Metadata,
)
from contracts.events.record import OutRecord, Record
from contracts.topics import Target
from contracts.wire.data_uri import decode_base64
from contracts.wire.exact_json import InexactNumberError, loads
from contracts.wire.validation import first_error

EVENT_TYPES: dict[Target, str] = {
    "images": "tidelens.image.v1",
    "captions": "tidelens.caption.v1",
}
_TYPE = re.compile(r"tidelens\.(image|caption)\.v(\d+)")

_Model = TypeVar("_Model", bound=BaseModel)


class Content(BaseModel):
    """A parsed content event, the same for every form that it can have on the topic.

    Exactly one of `text`, `image` (the picture's bytes) and `ref` (with `sha256`) is set.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    target: Target
    id: str
    text: str | None = None
    image: bytes | None = None
    ref: str | None = None
    sha256: str | None = None
    item: str | None = None
    metadata: Metadata = Field(default_factory=dict)


def id_of_key(key: bytes | None) -> str:
    """Return the item's id from a record's key.

    Raises RejectedRecord `empty_id`, `id_not_utf8` or `id_too_long`.
    """
    if not key:
        raise RejectedRecord("empty_id", "the record's key, the item's id, is empty", field="key")
    if len(key) > ID_BYTES_MAX:
        raise RejectedRecord.over("id_too_long", ID_BYTES_MAX, len(key), field="key", unit="bytes")
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedRecord(
            "id_not_utf8", f"key: not UTF-8 ({error.reason} at byte {error.start})", field="key"
        ) from None


def key_of_id(item_id: str) -> bytes:
    """Return the record's key for an item's id. Raises RejectedRecord as `id_of_key` does."""
    try:
        key = item_id.encode("utf-8")
    except UnicodeEncodeError:
        raise RejectedRecord("id_not_utf8", "id: not encodable as UTF-8", field="id") from None
    id_of_key(key)
    return key


def read_content(target: Target, record: Record) -> Content | None:
    """Parse a content record. Return None for a delete.

    Raises RejectedRecord; its code is the reason of the dead letter.
    """
    item_id = id_of_key(record.key)
    if record.value is None:
        return None
    _check_type(target, record)
    content_type = (record.header("content-type") or b"application/json").decode("latin-1")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith("image/"):
        return _read_raw_image(target, item_id, record)
    if media_type == "application/json" or media_type.endswith("+json"):
        return _read_json(target, item_id, record.value)
    raise RejectedRecord(
        "content_type",
        f"content-type: want application/json or image/*, got {content_type!r}",
        field="content-type",
        value=content_type,
    )


def _check_type(target: Target, record: Record) -> None:
    raw = record.header("ce_type")
    if raw is None:
        raise RejectedRecord(
            "not_a_cloudevent",
            "the header ce_type is missing: content events are CloudEvents in binary mode",
            field="ce_type",
        )
    event_type = raw.decode("utf-8", "replace")
    if event_type == EVENT_TYPES[target]:
        return
    match = _TYPE.fullmatch(event_type)
    known = match is not None and EVENT_TYPES[target].startswith(f"tidelens.{match[1]}.")
    code = "unknown_event_version" if known else "unknown_event_type"
    raise RejectedRecord(
        code,
        f"ce_type: this topic takes {EVENT_TYPES[target]}, got {event_type!r}",
        field="ce_type",
        limit=EVENT_TYPES[target],
        value=event_type,
    )


def _read_raw_image(target: Target, item_id: str, record: Record) -> Content:
    if target != "images":
        raise RejectedRecord(
            "content_type", "content-type: a caption is not an image", field="content-type"
        )
    item = record.header("ce_item")
    raw_metadata = record.header("ce_metadata")
    body = {
        "item": item.decode("utf-8", "replace") if item else None,
        "metadata": _json(raw_metadata, "ce_metadata") if raw_metadata else {},
    }
    checked = _validated(ContentBody, body)
    return Content(
        target=target,
        id=item_id,
        image=record.value,
        item=checked.item,
        metadata=checked.metadata,
    )


def _read_json(target: Target, item_id: str, value: bytes) -> Content:
    body = _json(value, "value")
    if target == "captions":
        caption = _validated(CaptionBody, body)
        return Content(
            target=target,
            id=item_id,
            text=caption.text,
            item=caption.item,
            metadata=caption.metadata,
        )
    picture = _validated(ImageBody, body)
    data = picture.image.data
    return Content(
        target=target,
        id=item_id,
        image=None if data is None else decode_base64(data, "image.data"),
        ref=picture.image.ref,
        sha256=picture.image.sha256,
        item=picture.item,
        metadata=picture.metadata,
    )


def _json(raw: bytes, field: str) -> Any:
    try:
        # Only the metadata of a body is checked: its unknown members are ignored.
        return loads(raw, only="metadata" if field == "value" else None)
    except InexactNumberError as error:
        raise _inexact(error, field) from None
    except ValueError as error:
        raise RejectedRecord("invalid_json", f"{field}: not JSON ({error})", field=field) from None


def _inexact(error: InexactNumberError, field: str) -> RejectedRecord:
    found = error.number
    # The path in a body is complete. The path in a header is relative to the metadata.
    at = found.field if field == "value" else f"metadata.{found.field}"
    return RejectedRecord.at("invalid_content", at, found)


def _validated(model: type[_Model], body: Any) -> _Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        fault = first_error(error, body)
        raise RejectedRecord.at("invalid_content", fault.field or "value", fault) from None


def content_record(
    topic: str,
    content: Content,
    *,
    producer: str = "tidelens",
    media_type: str = "image/*",
) -> OutRecord:
    """Return the record that publishes `content`.

    Its value is JSON for captions and references, and the raw bytes for inline pictures. Raises
    RejectedRecord for content beyond the limits that readers enforce.
    """
    key = key_of_id(content.id)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", uuid.uuid4().hex.encode()),
        ("ce_source", producer.encode()),
        ("ce_type", EVENT_TYPES[content.target].encode()),
    ]
    rest = {"item": content.item, "metadata": content.metadata}
    if content.image is not None:
        checked = _validated(ContentBody, rest)
        headers.append(("content-type", media_type.encode()))
        if checked.item is not None:
            headers.append(("ce_item", checked.item.encode()))
        if checked.metadata:
            headers.append(("ce_metadata", orjson.dumps(checked.metadata)))
        return OutRecord(topic, key, content.image, headers)
    body: BaseModel
    if content.target == "captions":
        body = _validated(CaptionBody, {"text": content.text, **rest})
    else:
        image = {"ref": content.ref, "sha256": content.sha256}
        body = _validated(ImageBody, {"image": image, **rest})
    headers.append(("content-type", b"application/json"))
    value = orjson.dumps(body.model_dump(exclude_none=True))
    return OutRecord(topic, key, value, headers)


def delete_record(topic: str, item_id: str) -> OutRecord:
    """Return the record that deletes an item: its key with a null value."""
    return OutRecord(topic, key_of_id(item_id), None)
