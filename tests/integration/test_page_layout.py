"""The page's layout in a real Chromium, from narrow to wide windows, in light and dark."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, WebSocketRoute, expect

from contracts.events.content_event import Content, content_record
from tests.kits.api_kit import Kit
from tests.kits.chromium import ServedKit, chromium, served_kit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

WIDTHS_PX = (320, 390, 480, 545, 600, 768, 1024, 1920)
# A zoom of 200 % halves the width that the page has.
ZOOMED_WIDTHS_PX = (160, 195, 240)
HEIGHT_PX = 800
PATIENCE_MS = 30_000

LAYOUT = (Path(__file__).parents[1] / "kits" / "page_layout.js").read_text()
# These show words that users wrote. Such a word is broken where it is wider than the window.
USERS_WORDS = ".title, .id, .what, .outcome, #example-name, #problem"
AXE = Axe()
AXE_OPTIONS = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}

LONG_WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
LONG_ID = "camera/" + "0123456789abcdef" * 8

Scheme = Literal["light", "dark"]


async def fill(kit: Kit) -> None:
    """Publish and index pictures and captions, some with words that fit into no window."""
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(data, "PNG")
    names = ["a red cat", LONG_WORD, "a tabby cat on a red sofa beside the window", "x"]
    for number in range(8):
        item_id = LONG_ID if number == 2 else f"picture/{number}"
        content = Content(target="images", id=item_id, image=data.getvalue())
        [at] = await kit.log.publish([content_record("tidelens.images", content)])
        name = names[number % len(names)]
        kit.index.put("images", item_id, kit.text(name), at=at.offset, metadata={"name": name})
    kit.caption("caption/1", "a red cat")
    kit.caption(LONG_ID, "a red cat on a warm roof " * 12)
    kit.caption("caption/2", LONG_WORD)
    kit.caption("caption/3", LONG_WORD * 8)


@pytest.fixture(scope="module")
def served() -> Iterator[ServedKit]:
    with served_kit() as served:
        served.portal.call(fill, served.kit)
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(served: ServedKit, browser: Browser) -> Iterator[Page]:
    """Open a page that does not animate, since the tests judge the layout at rest."""
    context = browser.new_context(base_url=served.url, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


def pictures(page: Page, served: ServedKit) -> None:
    page.goto("/?q=a+red+cat")
    expect(page.locator("#results li")).to_have_count(8)


def captions(page: Page, served: ServedKit) -> None:
    page.goto("/?q=a+red+cat&target=captions")
    expect(page.locator("#results li")).to_have_count(4)


def nothing_asked(page: Page, served: ServedKit) -> None:
    page.goto("/")
    expect(page.locator("#empty")).to_be_visible()


def no_results(page: Page, served: ServedKit) -> None:
    page.goto("/?q=a+red+cat")
    page.route_web_socket("**/v1/live", _answer_with_nothing)
    page.reload()
    expect(page.locator("#about")).to_contain_text("Nothing yet")


def _answer_with_nothing(socket: WebSocketRoute) -> None:
    def answer(message: str | bytes) -> None:
        asked = json.loads(message)
        if asked["op"] == "subscribe":
            snapshot = {"type": "snapshot", "sub": asked["sub"], "hits": [], "cursor": "c"}
            socket.send(json.dumps(snapshot))

    socket.on_message(answer)


def like_a_picture(page: Page, served: ServedKit) -> None:
    """The page shows the example that it searches with beside the input."""
    pictures(page, served)
    page.get_by_role("button", name="More like a tabby cat").first.click()
    expect(page.locator("#example-picture")).to_be_visible()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def refused(page: Page, served: ServedKit) -> None:
    page.goto(f"/?id=nowhere/{LONG_ID}&of=images")
    expect(page.locator("#problem")).to_contain_text("nowhere")


def ended(page: Page, served: ServedKit) -> None:
    """The list stays on the page, but it is not kept current any more."""
    served.portal.call(served.kit.caption, "gone", "a red cat")
    page.goto("/?id=gone&of=captions")
    expect(page.locator("#results li")).to_have_count(8)
    served.portal.call(served.kit.index.remove, "captions", "gone")
    expect(page.locator("#problem")).to_contain_text("deleted")


def published(page: Page, served: ServedKit) -> None:
    """The page lists what was published from it, with words as long as a caption may have."""
    page.route("**/v1/search", lambda route: route.fulfill(json={}))
    page.goto("/")
    for text in ("a red bicycle", LONG_WORD * 3):
        page.fill("#caption", text)
        page.press("#caption", "Enter")
        expect(page.locator("#published li[data-state=done]").first).to_contain_text(text)

    def refuse(route: Route) -> None:
        detail = f"image: limit 7 bytes, got {10**40}"
        route.fulfill(status=413, body=json.dumps({"detail": detail}))

    page.route("**/v1/items", refuse)
    page.fill("#caption", "too much")
    page.press("#caption", "Enter")
    expect(page.locator("#published li[data-state=failed]")).to_be_visible()


def out_of_reach(page: Page, served: ServedKit) -> None:
    """The server has gone, and the figures of the stream were large before."""
    rows = [
        {"space": "s", "role": "encode", "topic": "t", "partition": 0, "position": 1, "records": 1},
        {"space": "s", "role": "index", "topic": "u", "partition": 0, "records": 123_456_789},
    ]
    lag = {"space": "s", "behind_s": 7_100, "partitions": rows}
    page.route("**/v1/lag", lambda route: route.fulfill(json=lag))
    page.route_web_socket("**/v1/live", lambda socket: socket.close())
    page.goto("/?q=a+red+cat")
    expect(page.locator("[data-metric=lag_records]")).to_have_text("123.5M")
    expect(page.locator("#connection")).to_have_text("Reconnecting")


State = Callable[[Page, ServedKit], None]
STATES: list[State] = [
    pictures,
    captions,
    nothing_asked,
    no_results,
    like_a_picture,
    refused,
    ended,
    published,
    out_of_reach,
]
in_each_state = pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)


def resize(page: Page, width_px: int) -> None:
    page.set_viewport_size({"width": width_px, "height": HEIGHT_PX})
    # Only in a wide window is the form for publishing open from the start.
    page.evaluate("document.querySelector('#publisher').open = true")


def layout_faults(page: Page) -> list[str]:
    """Return a sentence for each fault in the layout as it stands."""
    faults: list[str] = page.evaluate(LAYOUT, {"users": USERS_WORDS})
    return faults


def violations(page: Page) -> list[str]:
    """Return the rules of axe-core that the page breaks, each with an element that breaks it."""
    found = AXE.run(page, options=AXE_OPTIONS).response["violations"]
    return [f"{rule['id']}: {rule['nodes'][0]['target']}" for rule in found]


@in_each_state
def test_every_width_has_room_for_everything(page: Page, served: ServedKit, state: State) -> None:
    state(page, served)
    faults = []
    for text_size, widths in (("100%", (*ZOOMED_WIDTHS_PX, *WIDTHS_PX)), ("200%", WIDTHS_PX)):
        page.evaluate("size => { document.documentElement.style.fontSize = size; }", text_size)
        for width in widths:
            resize(page, width)
            faults += [f"{width} px, text {text_size}: {fault}" for fault in layout_faults(page)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(("scheme", "width"), [("light", WIDTHS_PX[0]), ("dark", WIDTHS_PX[-1])])
@in_each_state
def test_the_page_is_accessible(
    page: Page, served: ServedKit, state: State, scheme: Scheme, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    state(page, served)
    resize(page, width)
    assert violations(page) == []


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@in_each_state
def test_the_page_is_accessible_and_has_room_at_every_width(
    page: Page, served: ServedKit, state: State, scheme: Scheme
) -> None:
    page.emulate_media(color_scheme=scheme)
    state(page, served)
    faults = []
    for width in WIDTHS_PX:
        resize(page, width)
        found = layout_faults(page) + violations(page)
        faults += [f"{width} px: {fault}" for fault in found]
    assert not faults, "\n".join(faults)
