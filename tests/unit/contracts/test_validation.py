"""Refusals of invalid input name the member that was meant, its limit and its value."""

import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from contracts.errors import RejectedRecord, RejectedRequest
from contracts.events.content_event import EVENT_TYPES, read_content
from contracts.events.record import Record
from contracts.schemas import build
from contracts.wire.data_uri import decode_base64, is_reference
from contracts.wire.parser import (
    parse_classify,
    parse_client_message,
    parse_new_items,
    parse_queries,
)

PICTURE = b"\x89PNG\xfb\xff\xbf"
BASE64 = base64.b64encode(PICTURE).decode()
DATA_URI = f"data:image/png;base64,{BASE64}"


def search(query: Any) -> None:
    parse_queries(query, queries_max=10)


def item(image: Any) -> None:
    parse_new_items({"target": "images", "id": "a", "image": image}, items_max=10)


def live(query: Any) -> None:
    parse_client_message(orjson.dumps({"op": "subscribe", "sub": "s", "query": query}).decode())


def classify(body: Any) -> None:
    parse_classify(body)


def event(image: Any) -> Any:
    headers = [("ce_type", EVENT_TYPES["images"].encode())]
    value = orjson.dumps({"image": image})
    return read_content("images", Record("t", 0, 0, 0, b"a", value, headers))


def refusal(parse: Callable[[Any], Any], body: Any) -> tuple[str | None, Any, Any, str]:
    with pytest.raises((RejectedRequest, RejectedRecord)) as caught:
        parse(body)
    error = caught.value
    return error.field, error.limit, error.value, error.message


@pytest.mark.parametrize(
    ("parse", "body", "field", "says"),
    [
        # The input has a recognisable form of a union, and a mistake inside it.
        (search, {"image": {"ref": "https://x/y", "sha256": 5}}, "image.sha256", "valid string"),
        (search, {"image": {"url": "https://x/y"}}, "image.url", "not permitted"),
        (search, {"image": {"sha256": "0" * 64}}, "image", "exactly one of data and ref"),
        (search, {"fuse": [{"image": {"data": 5}}]}, "fuse.0.image.data", "valid string"),
        (search, {"text": "a", "wait_for": {"topic": "t"}}, "wait_for.partition", "required"),
        (search, {"text": "a", "wait_for": {"space": "s"}}, "wait_for.epoch", "required"),
        (
            search,
            {"text": "a", "wait_for": {"space": "s", "epoch": "e", "offsets": {"images": "x"}}},
            "wait_for.offsets.images",
            "valid list",
        ),
        (item, {"ref": "https://x/y"}, "image.sha256", "a reference needs the SHA-256"),
        (item, {"data": 5}, "image.data", "valid string"),
        (event, {"ref": 5, "sha256": "0" * 64}, "image.ref", "valid string"),
        (live, {"image": {"data": 5}}, "query.image.data", "valid string"),
        # The input has none of the accepted forms.
        (search, {"image": 5}, "image", "want base64, a data: URI, a URL, or an object"),
        (search, {"image": ["x"]}, "image", "got a list"),
        (item, 5, "image", "got a number"),
        (search, {"text": "a", "wait_for": "x"}, "wait_for", "want a publish token"),
        (search, {"text": "a", "wait_for": {"x": 1}}, "wait_for", "got an object with x"),
        (search, [5], "0", "want a JSON object, got a number"),
        # The combination of members is wrong, which is reported before faults of one member.
        (search, {"text": "a", "id": "b"}, "body", "text, image, vector, id and fuse is needed"),
        (search, {"text": "a", "id": "b"}, "body", "got text, id"),
        (search, {"vector": [1.0], "fuse": [{"text": "a"}]}, "body", "got vector, fuse"),
        (search, {"of": "images"}, "body", "got none"),
        (search, {"fuse": [{"text": "a", "id": "b"}]}, "fuse.0", "got text, id"),
        (classify, {"text": "a", "id": "b", "labels": ["x"]}, "body", "got text, id"),
        (search, {"text": "a", "of": "images"}, "of", "goes with `id` only"),
        # Faults of length have messages of their own.
        (search, {"fuse": [{"text": "a"}] * 17}, "fuse", "fuse: limit 16 items, got 17"),
        (search, {"fuse": []}, "fuse", "fuse: want at least 1 item, got 0"),
        (search, {"vector": [1.0] * 65_537}, "vector", "vector: limit 65536 items, got 65537"),
        (search, {"text": ""}, "text", "text: want at least 1 character, got 0"),
        (search, {"id": "b" * 513, "of": "images"}, "id", "id: limit 512 characters, got 513"),
        (event, "x", "image", "want a JSON object, got a string"),
    ],
)
def test_the_member_that_was_meant_is_named(
    parse: Callable[[Any], Any], body: Any, field: str, says: str
) -> None:
    found, _, _, message = refusal(parse, body)
    assert (found, message.startswith(f"{field}: ")) == (field, True), message
    assert says in message


@pytest.mark.parametrize(
    ("message", "says", "value"),
    [
        ({"op": "subscrib", "sub": "a"}, "op: want one of 'subscribe', 'unsubscribe'", "subscrib"),
        ({"op": 5}, "op: want one of 'subscribe', 'unsubscribe', 'ping', got '5'", "5"),
        ({"sub": "a"}, "op: Field required", None),
    ],
)
def test_a_live_message_of_no_kind_names_the_member_that_says_the_kind(
    message: dict[str, Any], says: str, value: str | None
) -> None:
    field, _, got, words = refusal(parse_client_message, orjson.dumps(message).decode())
    assert (field, got) == ("op", value)
    assert words.startswith(says)


@pytest.mark.parametrize(
    ("parse", "body", "field", "limit", "value"),
    [
        (search, {"text": "x" * 10_001}, "text", 10_000, 10_001),
        (search, {"text": ""}, "text", 1, 0),
        (search, {"text": "a", "k": 0}, "k", 1, 0),
        (search, {"text": "a", "offset": -1}, "offset", 0, -1),
        (search, {"text": "a", "timeout_s": -0.5}, "timeout_s", 0, -0.5),
        (search, {"image": {"ref": "s" * 4097}}, "image.ref", 4096, 4097),
        (search, {"fuse": [{"text": "a"}] * 17}, "fuse", 16, 17),
        (search, {"text": "a", "target": "x"}, "target", "'images' or 'captions'", "x"),
        (live, {"text": "a", "k": 0}, "query.k", 1, 0),
    ],
)
def test_the_limit_and_the_value_are_named(
    parse: Callable[[Any], Any], body: Any, field: str, limit: Any, value: Any
) -> None:
    found = refusal(parse, body)
    assert found[:3] == (field, limit, value), found
    assert repr(value) in found[3]


@pytest.mark.parametrize("name", ["query", "new-item", "image.v1", "caption.v1", "client-message"])
def test_every_union_of_what_comes_in_is_discriminated(name: str) -> None:
    """A union without a discriminator would report faults in forms that were not meant."""

    def undiscriminated(node: Any) -> list[Any]:
        if isinstance(node, list):
            return [found for part in node for found in undiscriminated(part)]
        if not isinstance(node, dict):
            return []
        members = [m for m in node.get("anyOf", []) if m != {"type": "null"}]
        own = [members] if len(members) > 1 else []
        return own + [found for part in node.values() for found in undiscriminated(part)]

    assert undiscriminated(build.schema_documents()[name]) == []


@pytest.mark.parametrize(
    "image",
    [
        BASE64,
        DATA_URI,
        DATA_URI.replace("data:", "DATA:").replace("base64", "BASE64"),
        f"data:;base64,{BASE64}",
        f"data:image/png;charset=x;base64,{BASE64.replace('+', '%2B').replace('/', '%2F')}",
        "data:image/png,%89PNG%FB%FF%BF",
    ],
)
def test_a_data_uri_is_taken_where_base64_is(image: str) -> None:
    assert not is_reference(image)
    assert decode_base64(image, "image") == PICTURE
    content = event({"data": image})
    assert content is not None
    assert content.image == PICTURE


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("data:image/png;base64", "invalid_data_uri"),
        ("data:image/png;base64,???", "invalid_base64"),
    ],
)
def test_a_broken_data_uri_is_refused(image: str, code: str) -> None:
    with pytest.raises(RejectedRecord) as refused:
        decode_base64(image, "image")
    assert (refused.value.code, refused.value.field) == (code, "image")
