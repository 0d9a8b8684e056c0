"""Endpoints below /v1/items: publishing, reading and deleting items, and refused requests."""

import asyncio
import base64
from typing import Any

import pytest

from contracts.errors import BrokerUnavailable
from contracts.events.content_event import read_content
from contracts.events.record import Record, TopicPartition
from tests.kits.api_kit import Kit

pytestmark = pytest.mark.anyio
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@pytest.fixture
async def kit() -> Kit:
    return Kit()


def records(kit: Kit, topic: str) -> list[Record]:
    return [r for n in range(2) for r in kit.log.records[TopicPartition(topic, n)]]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_a_caption(kit: Kit) -> None:
    item = {
        "target": "captions",
        "id": "a/ü",
        "text": "red cat",
        "item": "p1",
        "metadata": {"n": 1},
    }
    response = await kit.http.post("/v1/items", json=item)
    assert response.status_code == 200
    [token] = response.json()["tokens"]
    [record] = records(kit, "tidelens.captions")
    assert token == {
        "topic": "tidelens.captions",
        "partition": record.partition,
        "offset": record.offset,
    }
    content = read_content("captions", record)
    assert content is not None
    assert (content.id, content.text, content.item) == ("a/ü", "red cat", "p1")
    assert content.metadata == {"n": 1}
    assert kit.sample("tidelens_published_records_total") == 1


@pytest.mark.parametrize("image", [b64(PNG), {"data": b64(PNG)}])
async def test_a_picture(kit: Kit, image: Any) -> None:
    await kit.http.post("/v1/items", json={"target": "images", "id": "p", "image": image})
    [record] = records(kit, "tidelens.images")
    assert record.value == PNG
    assert record.header("content-type") == b"image/png"


@pytest.mark.parametrize("ref", ["s3://bucket/a.png", "https://host.example/a.png"])
async def test_a_picture_by_reference(kit: Kit, ref: str) -> None:
    image = {"ref": ref, "sha256": "ab" * 32}
    item = {"target": "images", "id": "p", "image": image, "metadata": {"n": 1}}
    response = await kit.http.post("/v1/items", json=item)
    assert response.status_code == 200
    [record] = records(kit, "tidelens.images")
    content = read_content("images", record)
    assert content is not None
    assert (content.ref, content.sha256, content.image) == (ref, "ab" * 32, None)
    assert content.metadata == {"n": 1}


async def test_a_broken_picture_is_the_encoders_to_refuse(kit: Kit) -> None:
    item = {"target": "images", "id": "p", "image": b64(b"not a picture")}
    assert (await kit.http.post("/v1/items", json=item)).status_code == 200
    assert records(kit, "tidelens.images")[0].header("content-type") == b"image/*"


async def test_a_list_is_answered_in_order(kit: Kit) -> None:
    items = [{"target": "captions", "id": f"n{i}", "text": "x"} for i in range(9)]
    items.insert(4, {"target": "images", "id": "p", "image": b64(PNG)})
    tokens = (await kit.http.post("/v1/items", json=items)).json()["tokens"]
    for item, token in zip(items, tokens, strict=True):
        place = TopicPartition(token["topic"], token["partition"])
        assert kit.log.records[place][token["offset"]].key == item["id"].encode()


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("item", "status", "code", "field"),
    [
        ({"target": "captions", "id": "", "text": "x"}, 400, "invalid_request", "id"),
        ({"target": "captions", "id": "x" * 513, "text": "x"}, 400, "invalid_request", "id"),
        ({"target": "captions", "id": "ü" * 300, "text": "x"}, 400, "id_too_long", "key"),
        ({"target": "captions", "text": "x"}, 400, "invalid_request", "id"),
        ({"target": "captions", "id": "a"}, 400, "invalid_request", "text"),
        ({"target": "captions", "id": "a", "text": 5}, 400, "invalid_request", "text"),
        ({"target": "captions", "id": "a", "text": "x" * 10_001}, 400, "invalid_request", "text"),
        ({"target": "captions", "id": "a", "image": "AA=="}, 400, "invalid_request", "text"),
        ({"target": "images", "id": "a", "text": "x"}, 400, "invalid_request", "image"),
        ({"target": "videos", "id": "a", "text": "x"}, 400, "invalid_request", "target"),
        ({"target": "images", "id": "a", "image": "?"}, 400, "invalid_base64", "image"),
        ({"target": "images", "id": "a", "image": ""}, 400, "empty_image", "image"),
        (
            {"target": "images", "id": "a", "image": {"ref": "file:///x", "sha256": "0" * 64}},
            400,
            "file_reference",
            "image.ref",
        ),
        ({"target": "images", "id": "a", "image": "file:/x"}, 400, "file_reference", "image.ref"),
        (
            {"target": "images", "id": "a", "image": {"ref": "ftp://x/y", "sha256": "0" * 64}},
            400,
            "not_enabled",
            "image.ref",
        ),
        ({"target": "images", "id": "a", "image": "http://x/y"}, 400, "not_enabled", "image.ref"),
        (
            {"target": "images", "id": "a", "image": "s3://b/k"},
            400,
            "invalid_content",
            "image.sha256",
        ),
        (
            {"target": "captions", "id": "a", "text": "x", "metadata": {"m": "x" * 20_000}},
            400,
            "invalid_content",
            "metadata",
        ),
        (
            {
                "target": "captions",
                "id": "a",
                "text": "x",
                "metadata": {f"n{n}": n for n in range(101)},
            },
            400,
            "invalid_content",
            "metadata",
        ),
        (
            {"target": "captions", "id": "a", "text": "x", "metadata": {"m": nested(300)}},
            400,
            "invalid_content",
            "metadata",
        ),
        ({"target": "images", "id": "a", "image": {"data": ""}}, 400, "invalid_request", "image"),
        ([{"target": "captions", "id": "a", "text": "x"}] * 1001, 413, "too_many", "items"),
    ],
)
async def test_what_is_refused(kit: Kit, item: Any, status: int, code: str, field: str) -> None:
    problem = (await kit.http.post("/v1/items", json=item)).json()
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["field"].startswith(field)
    assert not kit.log.records


async def test_a_list_with_one_bad_item_publishes_nothing_and_names_it(kit: Kit) -> None:
    good = {"target": "captions", "id": "a", "text": "x"}
    bad = {"target": "images", "id": "a", "image": "?"}
    problem = (await kit.http.post("/v1/items", json=[good, bad])).json()
    assert problem["field"] == "1.image"
    assert not kit.log.records


async def test_a_picture_over_the_inline_limit() -> None:
    kit = Kit(inline_bytes_max=10)
    item = {"target": "images", "id": "a", "image": b64(PNG)}
    problem = (await kit.http.post("/v1/items", json=item)).json()
    assert (problem["status"], problem["limit"], problem["value"]) == (413, 10, len(PNG))


async def test_looking_up(kit: Kit) -> None:
    kit.caption("a/b c", "red cat", item="p")
    response = await kit.http.get("/v1/items/captions/a%2Fb%20c")
    assert response.json() == {
        "id": "a/b c",
        "target": "captions",
        "item": "p",
        "text": "red cat",
        "metadata": {},
        "source": {"topic": "tidelens.captions", "partition": 0, "offset": 0},
        "picture": None,
    }
    assert (await kit.http.get("/v1/items/captions/a/b%20c")).status_code == 200


async def test_looking_up_what_is_not_there(kit: Kit) -> None:
    response = await kit.http.get("/v1/items/captions/nobody")
    assert (response.status_code, response.json()["code"]) == (404, "item_not_found")
    response = await kit.http.get("/v1/items/videos/a")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_target")


async def test_deleting(kit: Kit) -> None:
    response = await kit.http.delete("/v1/items/images/a/b")
    [token] = response.json()["tokens"]
    record = kit.log.records[TopicPartition(token["topic"], token["partition"])][token["offset"]]
    assert (record.topic, record.key, record.value) == ("tidelens.images", b"a/b", None)


@pytest.mark.parametrize("path", ["/v1/items/images", "/v1/items/images/a/b"])
@pytest.mark.parametrize("method", ["OPTIONS", "PUT"])
async def test_a_method_that_a_path_lacks_names_all_that_it_has(
    kit: Kit, path: str, method: str
) -> None:
    response = await kit.http.request(method, path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"DELETE", "GET", "HEAD"}


@pytest.mark.parametrize("item_id", ["", "x" * 600])
async def test_deleting_no_id(kit: Kit, item_id: str) -> None:
    response = await kit.http.delete(f"/v1/items/images/{item_id}")
    assert response.status_code == 400
    assert response.json()["code"] in ("empty_id", "id_too_long")
    assert not kit.log.records


async def test_the_broker_is_away(kit: Kit) -> None:
    async def publish(_: Any) -> Any:
        raise BrokerUnavailable("no broker answers")

    kit.log.publish = publish  # type: ignore[method-assign]
    response = await kit.http.delete("/v1/items/images/a")
    assert (response.status_code, response.json()["code"]) == (503, "broker_unavailable")


async def test_the_broker_does_not_acknowledge() -> None:
    kit = Kit(wait_s_max=0.05)

    async def publish(_: Any) -> Any:
        await asyncio.sleep(10)

    kit.log.publish = publish  # type: ignore[method-assign]
    response = await kit.http.delete("/v1/items/images/a")
    assert (response.status_code, response.json()["code"]) == (504, "timed_out")
