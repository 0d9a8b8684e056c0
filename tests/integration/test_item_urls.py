"""Pictures by the URLs that the API gives, as curl and a browser ask for them."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from contracts.wire.item_urls import item_path
from tests.kits.api_kit import Kit, serving
from tests.kits.chromium import FLAGS, chromium_path
from tests.unit.api.test_item_path import NASTY_IDS, data_of, publish

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

# As the page asks for it, with the version; and as anybody deletes it.
SHOWN_AND_DELETED = """
async ([hits, paths]) => {
  const { Client } = await import("/static/client/client.js");
  const client = new Client();
  const text = async (url, method) => {
    const response = await fetch(url, { method });
    return new TextDecoder().decode(await response.arrayBuffer());
  };
  const all = (urls, method) => Promise.all(urls.map((url) => text(url, method)));
  return [await all(hits.map((hit) => client.pictureUrl(hit)), "GET"), await all(paths, "DELETE")];
}
"""


async def published() -> tuple[Kit, list[Any]]:
    """Publish all nasty ids, and return the node and their hits."""
    kit = Kit()
    for item_id in NASTY_IDS:
        await publish(kit, item_id)
    query = {"text": "x", "k": 100}
    hits = (await kit.http.post("/v1/search", json=query)).json()["hits"]
    assert {hit["id"] for hit in hits} == set(NASTY_IDS)
    return kit, hits


async def test_curl_gets_the_picture_that_is_meant() -> None:
    kit, hits = await published()
    async with serving(kit.app, kit.settings) as port:
        # One process for all of them: a URL each, one answer behind the other.
        urls = [f"http://127.0.0.1:{port}{hit['picture']}" for hit in hits]
        curl = await asyncio.create_subprocess_exec(
            *("curl", "--disable", "--silent", "--noproxy", "*", "--fail", *urls),
            stdout=asyncio.subprocess.PIPE,
        )
        found, _ = await curl.communicate()
    assert curl.returncode == 0
    assert found == b"".join(data_of(hit["id"]) for hit in hits)


@pytest.mark.browser
async def test_a_browser_shows_and_deletes_the_picture_that_is_meant() -> None:
    kit, hits = await published()
    async with serving(kit.app, kit.settings) as port, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        page: Page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}/openapi.json")
        ids = [hit["id"] for hit in hits]
        asked = [hits, [item_path("images", item_id) for item_id in ids]]
        shown, deleted = await page.evaluate(SHOWN_AND_DELETED, asked)
        await browser.close()
    assert shown == [data_of(item_id).decode(errors="replace") for item_id in ids]
    assert all('"tokens"' in answer for answer in deleted)
    keys = {r.key for records in kit.log.records.values() for r in records if r.value is None}
    assert keys == {item_id.encode() for item_id in ids}
