"""Behind a path prefix, stripped by a proxy or kept: every path, and the URLs in answers."""

import re
from typing import Any

import httpx
import orjson
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.routing import Mount

from api.endpoints.pages import _STATIC
from contracts.events.content_event import Content, content_record
from contracts.settings import Settings
from tests.kits.api_kit import Kit, serving
from tests.kits.prefix_proxy import proxy
from tidelens.client import Client

pytestmark = pytest.mark.anyio
PNG = b"\x89PNG\r\n\x1a\n...."
ASKED = {"text": "red cat", "k": 1}


async def kit_with_a_picture(**settings: Any) -> Kit:
    kit = Kit(**settings)
    content = Content(target="images", id="p/1 ü.jpg", image=PNG)
    [at] = await kit.log.publish([content_record("tidelens.images", content)])
    kit.index.put("images", content.id, kit.text("red cat"), at=at.offset)
    return kit


def mounted(kit: Kit) -> httpx.AsyncClient:
    app = Starlette(routes=[Mount("/search", kit.app)])
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")


@pytest.mark.parametrize("way", ["kept", "mounted"])
async def test_every_path_is_there_below_the_prefix(way: str) -> None:
    kit = await kit_with_a_picture(**({"root_path": "/search"} if way == "kept" else {}))
    http = kit.http if way == "kept" else mounted(kit)
    page = await http.get("/search/")
    assert page.status_code == 200
    urls = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert {"static/page.css", "static/main.js", "openapi.json"} <= set(urls)
    for url in urls:
        found = await http.get(httpx.URL("http://127.0.0.1:8080/search/").join(url))
        assert found.status_code == 200, url
    answer = await http.post("/search/v1/search", json=ASKED)
    assert answer.status_code == 200
    # A path below the API's URL, whatever that is.
    picture = await http.get(f"/search{answer.json()['hits'][0]['picture']}")
    assert picture.content == PNG
    item = await http.get("/search/v1/items/images/p/1%20%C3%BC.jpg")
    assert item.json()["id"] == "p/1 ü.jpg"
    refused = await http.get("/search/v1/items/images/%ff%fe")
    assert refused.json()["code"] == "id_not_utf8"
    assert (await http.get("/search/healthz")).status_code == 200


async def test_what_comes_without_the_prefix_is_served_too() -> None:
    kit = await kit_with_a_picture(root_path="/search")
    for path in ("/", "/healthz", "/v1/status", "/static/main.js"):
        assert (await kit.http.get(path)).status_code == 200, path
    for path in ("/searching", "/search/search/healthz", "/other/healthz", "/search//healthz"):
        assert (await kit.http.get(path)).status_code == 404, path


async def test_the_bare_prefix_leads_to_the_page() -> None:
    kit = Kit(root_path="/a/b")
    answer = await kit.http.get("/a/b")
    assert (answer.status_code, answer.headers["location"]) == (308, "/a/b/")
    assert (await kit.http.get("/a/b", headers={"host": "evil.example"})).status_code == 403


async def test_a_prefix_opens_nothing_to_strangers() -> None:
    kit = Kit(root_path="/search")
    stranger = {"host": "evil.example"}
    assert (await kit.http.get("/search/readyz", headers=stranger)).json() == {"ready": True}
    for path in ("/search/", "/search/v1/status", "/search/v1/healthz"):
        assert (await kit.http.get(path, headers=stranger)).status_code == 403, path
    linked = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    assert (await kit.http.get("/search/", headers=linked)).status_code == 200
    live = await kit.http.get("/search/v1/live?text=a", headers=linked)
    assert live.status_code == 403


@pytest.mark.parametrize("strips", [True, False], ids=["stripped", "kept"])
async def test_a_client_goes_through_a_proxy_with_a_prefix(strips: bool) -> None:
    kit = await kit_with_a_picture(**({} if strips else {"root_path": "/search"}))
    async with (
        serving(kit.app, kit.settings) as port,
        proxy(port, "/search", strips=strips) as outside,
    ):
        for end in ("", "/"):
            async with Client(f"http://127.0.0.1:{outside}/search{end}") as client:
                answer = await client.search(ASKED)
                assert [hit["id"] for hit in answer["hits"]] == ["p/1 ü.jpg"]
                updates = client.watch(ASKED)
                assert (await anext(updates)).hits == answer["hits"]
                await updates.aclose()


@pytest.mark.parametrize(
    "path", ["search", "/search/", "/", "/a//b", "/..", "/a/../b", "/a b", "/ü"]
)
def test_a_prefix_that_cannot_be_one_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=path)


def test_the_page_names_nothing_from_the_root() -> None:
    for file in _STATIC.iterdir():
        if file.suffix in (".html", ".js", ".css"):
            found = re.findall(r"""(?:src=|href=|url\(|from |import\()["']?/.*""", file.read_text())
            assert found == [], file.name
    documents = orjson.loads((_STATIC.parents[1] / "contracts/schemas/openapi.json").read_bytes())
    assert documents["servers"] == [{"url": "."}]
