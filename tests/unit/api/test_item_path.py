"""Every id that can be published is read, shown and deleted by the URL that the API gives."""

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import RejectedRequest
from contracts.events.content_body import ID_BYTES_MAX
from contracts.events.content_event import Content, content_record
from contracts.events.record import OutRecord
from contracts.wire.item_urls import item_path, picture_path
from tests.kits.api_kit import MURMUR2, PARTITIONS, Kit
from tidelens.client import Client

NASTY_IDS = [
    *(".", "..", "d/../cat.png", "./a", "a/.", "a/..", "../../etc/passwd", "...", "a/.../b"),
    *("note\n", "\nnote", "no\nte", "note", "\r\n", "\0", "\x1f\x7f\x85", "\u2028", "\ufffd"),
    *("/a", "//a", "a//b", "a/", "a//", "/", "//", "cat.png", "d/cat.png"),
    *("%", "%2e%2e/a", "%2F", "%0A", "a%", "%ZZ", "a?b", "?id=x", "a#b", "a&id=b", "a=b", "a;b"),
    *(" ", " a ", "a+b", "a b", "\\..\\a", "..\\a", "a:b", "http://x/y", "ü", "u\u0308", "😀"),
    *("x" * ID_BYTES_MAX, "é" * (ID_BYTES_MAX // 2), "[a]{b}", "~a*'()!", '"<>^`|'),
]
PIECES = st.sampled_from([*NASTY_IDS[:40], "/", ".", "..", "\n"]) | st.text(max_size=3)
IDS = (
    st.lists(PIECES, min_size=1, max_size=5)
    .map("".join)
    .filter(lambda item_id: 0 < len(item_id.encode()) <= ID_BYTES_MAX)
)


def data_of(item_id: str) -> bytes:
    """Return a different picture for each id."""
    return b"\x89PNG\r\n\x1a\n" + item_id.encode()


async def publish(kit: Kit, item_id: str) -> None:
    content = Content(target="images", id=item_id, image=data_of(item_id))
    record = content_record("tidelens.images", content)
    partition = MURMUR2(item_id.encode(), PARTITIONS)
    record = OutRecord(record.topic, record.key, record.value, record.headers, partition)
    [position] = await kit.log.publish([record])
    kit.index.put("images", item_id, kit.text("x"), at=position.offset)


async def goes_round(kit: Kit, client: Client, item_id: str) -> None:
    item = await client.item("images", item_id)
    assert item["id"] == item_id
    assert item["picture"] == picture_path(item_id)
    shown = await kit.http.get(item["picture"])
    assert (shown.status_code, shown.content) == (200, data_of(item_id))
    [token] = (await client.delete("images", item_id))["tokens"]
    found = kit.log.records[token["topic"], token["partition"]][token["offset"]]
    assert (found.key, found.value) == (item_id.encode(), None)


async def all_go_round(ids: list[str]) -> None:
    kit, client = Kit(), Client("http://127.0.0.1:8080")
    await client.close()
    client._http = kit.http
    for item_id in ids:
        await publish(kit, item_id)
    for item_id in ids:
        await goes_round(kit, client, item_id)
    await kit.http.aclose()


@settings(max_examples=20, deadline=None)
@given(st.lists(IDS, min_size=1, max_size=10, unique=True))
def test_any_id_goes_round(ids: list[str]) -> None:
    asyncio.run(all_go_round(ids))


@pytest.mark.anyio
async def test_nasty_ids_go_round_side_by_side() -> None:
    """All of them are published: none is answered by another."""
    await all_go_round(NASTY_IDS)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("/v1/items/captions/note%0A", 404, "item_not_found"),
        ("/v1/items/captions%0A/note", 404, "unknown_target"),
        ("/v1/items/captions/%FF", 400, "id_not_utf8"),
        ("/v1/items/captions/%ED%A0%80", 400, "id_not_utf8"),
        ("/v1/items/captions?id=%FF", 400, "query_not_utf8"),
        ("/v1/items/captions", 400, "invalid_request"),
        ("/v1/items/captions?id=a&id=b", 400, "invalid_request"),
        ("/v1/items/captions?" + "&".join(f"x{n}=" for n in range(65)), 400, "too_many"),
    ],
)
async def test_no_other_item_is_meant(method: str, url: str, status: int, code: str) -> None:
    kit = Kit()
    for item_id in ("note", "\ufffd", "\ufffd\ufffd\ufffd", "a", "b"):
        kit.caption(item_id, "red cat")
    response = await kit.http.request(method, url)
    if (method, status) == ("DELETE", 404) and code == "item_not_found":
        # Deleting an unknown item is not an error; the record has the requested id.
        [token] = response.json()["tokens"]
        [record] = kit.log.records[token["topic"], token["partition"]]
        assert record.key == b"note\n"
        return
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert not kit.log.records


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/healthz", "/v1/status", "/metrics", "/openapi.json", "/"])
async def test_a_line_break_makes_another_path(path: str) -> None:
    kit = Kit()
    assert (await kit.http.get(path)).status_code == 200
    assert (await kit.http.get(f"{path}%0A")).status_code == 404


@pytest.mark.anyio
async def test_a_stream_of_no_other_item() -> None:
    kit = Kit()
    kit.caption("\ufffd", "red cat")
    response = await kit.http.get("/v1/live?of=captions&id=%FF")
    assert (response.status_code, response.json()["code"]) == (400, "query_not_utf8")


@pytest.mark.anyio
async def test_a_link_from_a_foreign_page_opens_no_stream_behind_a_line_break() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    headers |= {"sec-fetch-dest": "document"}
    async with httpx.AsyncClient(transport=Kit().http._transport, base_url="http://[::1]") as http:
        assert (await http.get("/v1/live?q=x", headers=headers)).status_code == 403
        assert (await http.get("/v1/live%0A?q=x", headers=headers)).status_code == 404


def test_paths_are_as_they_are_documented() -> None:
    assert picture_path("p/1 ü.jpg") == "/v1/pictures/p/1%20%C3%BC.jpg"
    assert picture_path("d/../cat.png") == "/v1/pictures?id=d%2F..%2Fcat.png"
    assert item_path("captions", ".") == "/v1/items/captions?id=."
    with pytest.raises(RejectedRequest, match="UTF-8"):
        item_path("captions", "\ud800")


@pytest.mark.anyio
async def test_an_id_in_the_query_is_any_id() -> None:
    kit = Kit()
    kit.caption("a+b c", "red cat")
    found: Any = (await kit.http.get("/v1/items/captions", params={"id": "a+b c"})).json()
    assert found["id"] == "a+b c"
