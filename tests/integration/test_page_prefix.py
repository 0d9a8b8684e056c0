"""The page in a real Chromium behind a reverse proxy's prefix: script, pictures, calls, socket."""

import io
from collections.abc import AsyncIterator

import pytest
from PIL import Image
from playwright.async_api import Browser, async_playwright, expect

from contracts.events.content_event import Content, content_record
from tests.kits.api_kit import Kit, serving
from tests.kits.chromium import FLAGS, chromium_path
from tests.kits.prefix_proxy import proxy

pytestmark = [pytest.mark.anyio, pytest.mark.browser]
PATIENCE_MS = 30_000


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield browser
        await browser.close()


async def show(kit: Kit, item_id: str) -> None:
    """Publish a picture of one pixel, and index it."""
    data = io.BytesIO()
    Image.new("RGB", (1, 1)).save(data, "PNG")
    content = Content(target="images", id=item_id, image=data.getvalue())
    [at] = await kit.log.publish([content_record("tidelens.images", content)])
    kit.index.put("images", item_id, kit.text("red cat"), at=at.offset)


@pytest.mark.parametrize("strips", [True, False], ids=["stripped", "kept"])
async def test_the_page_works_behind_a_prefix(browser: Browser, strips: bool) -> None:
    kit = Kit(**({} if strips else {"root_path": "/search"}))
    await show(kit, "p/1 ü.png")
    async with (
        serving(kit.app, kit.settings) as port,
        proxy(port, "/search", strips=strips) as outside,
    ):
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        below, wrong = f"//127.0.0.1:{outside}/search/", []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("response", lambda r: wrong.append(r.url) if r.status >= 400 else None)
        page.on("request", lambda r: None if below in r.url else wrong.append(r.url))
        page.on("websocket", lambda s: None if below in s.url else wrong.append(s.url))
        await page.goto(f"http:{below}?q=red+cat")
        await expect(page.locator("#connection")).to_have_attribute(
            "data-state", "live", timeout=PATIENCE_MS
        )
        pictures = page.locator("#results img")
        await expect(pictures).to_have_js_property("naturalWidth", 1, timeout=PATIENCE_MS)
        # The list goes on by itself, and the address that can be sent to others stays below.
        await show(kit, "another?.png")
        await expect(pictures).to_have_count(2, timeout=PATIENCE_MS)
        await expect(pictures.last).to_have_js_property("naturalWidth", 1, timeout=PATIENCE_MS)
        await page.fill("#q", "")
        await expect(page).to_have_url(f"http:{below}", timeout=PATIENCE_MS)
        await context.close()
        assert wrong == []
