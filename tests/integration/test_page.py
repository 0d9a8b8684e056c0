"""The page in a real Chromium, on a running system with the real broker and the real model."""

import base64
import json
import os
import random
import re
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, Route, WebSocketRoute, expect

from contracts.supervision.children import module_command
from contracts.wire.delta import apply_changes, wire_list_changes
from tests.kits.broker_fixture import TestKafka
from tests.kits.chromium import chromium
from tests.kits.roles import free_port

pytestmark = [
    pytest.mark.browser,
    pytest.mark.broker,
    pytest.mark.model,
    pytest.mark.timeout(240),
]

# Generous: two cores carry Kafka, the model and a browser.
PATIENCE_MS = 30_000
READY_S = 120
# For every expectation of the page: what it shows next may have gone through the
# encoder, which yields to all others (nice 19), the other test process among them.
expect.set_options(timeout=PATIENCE_MS)


@dataclass(frozen=True)
class System:
    """A running `tidelens up`, and the commands beside it."""

    url: str
    environment: dict[str, str]
    folder: Path

    def run(self, *arguments: str) -> None:
        done = subprocess.run(
            module_command("tidelens", *arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr

    def publish(self, *captions: tuple[str, str]) -> None:
        """Publish (id, text) pairs from another process."""
        lines = [json.dumps({"id": item_id, "text": text}) for item_id, text in captions]
        file = self.folder / f"{uuid.uuid4().hex}.jsonl"
        file.write_text("\n".join(lines))
        self.run("publish", str(file))


@dataclass
class Seen:
    """The faults of a page: errors in its console, and requests to other hosts."""

    url: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._requested(request.url))
        page.on("websocket", lambda socket: self._requested(socket.url))

    def _requested(self, url: str) -> None:
        if not url.startswith((self.url, self.url.replace("http", "ws", 1), "blob:", "data:")):
            self.foreign.append(url)


@pytest.fixture(scope="module")
def system(kafka: TestKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("page")
    port = free_port()
    environment = {
        **os.environ,
        "TIDELENS_BROKERS": kafka.bootstrap,
        "TIDELENS_TOPIC_PREFIX": f"page-{uuid.uuid4().hex[:8]}.",
        "TIDELENS_DATA": str(folder / "data"),
        "TIDELENS_ENCODE_METRICS_PORT": "0",
    }
    system = System(f"http://127.0.0.1:{port}", environment, folder)
    log = folder / "up.log"
    with log.open("wb") as output:
        # A session of its own, so that whatever it started can be ended with it.
        up = subprocess.Popen(
            module_command("tidelens", "up", "--port", str(port)),
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _until_ready(system.url, up, log)
        yield system
        up.terminate()
        assert up.wait(60) == 0, log.read_text()[-3000:]
    finally:
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()


def _until_ready(url: str, up: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if up.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"not ready:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def seen(system: System) -> Seen:
    return Seen(system.url)


@pytest.fixture
def page(system: System, browser: Browser, seen: Seen) -> Iterator[Page]:
    """Open a page of a laptop's size; require no console error and no request to another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=system.url)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    seen.watch(page)
    yield page
    context.close()
    assert seen.errors == []
    assert seen.foreign == []


def opened(page: Page, path: str = "/") -> Page:
    page.goto(path)
    state = page.locator("#connection")
    expect(state).to_have_attribute("data-state", "live")
    return page


def card(page: Page, item_id: str) -> Any:
    return page.locator(f'#results li[data-id="{item_id}"]')


def ids(page: Page) -> list[str]:
    found: list[str] = page.locator("#results li").evaluate_all("all => all.map(c => c.dataset.id)")
    return found


def drawing(path: Path, colour: str) -> Path:
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 84, 84), fill=colour)
    image.save(path)
    return path


def drop(page: Page, area: str, path: Path, media_type: str) -> None:
    """Move a file over an area, and drop it there."""
    transfer = page.evaluate_handle(
        """([data, name, type]) => {
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [base64.b64encode(path.read_bytes()).decode(), path.name, media_type],
    )
    over = re.compile(r"\bover\b")
    page.dispatch_event(area, "dragover", {"dataTransfer": transfer})
    expect(page.locator(area)).to_have_class(over)
    page.dispatch_event(area, "drop", {"dataTransfer": transfer})
    expect(page.locator(area)).not_to_have_class(over)


def test_what_is_published_elsewhere_arrives_by_itself(system: System, page: Page) -> None:
    system.publish(("live/train", "a steam train crossing a bridge"))
    opened(page).locator("#q").fill("a cat sleeping")
    page.get_by_text("Captions", exact=True).click()
    expect(card(page, "live/train")).to_be_visible(timeout=PATIENCE_MS)
    page.evaluate("window.sameDocument = true")

    system.publish(("live/cat", "a cat sleeping on a sofa"))
    expect(card(page, "live/cat")).to_be_visible(timeout=PATIENCE_MS)
    expect(card(page, "live/cat")).to_have_class(re.compile("is-new"))
    assert ids(page).index("live/cat") < ids(page).index("live/train")

    # An update moves the card, which is kept: the same node goes to its new rank.
    card(page, "live/train").evaluate("node => { window.train = node; }")
    system.publish(("live/train", "a cat sleeping"))
    expect(card(page, "live/train")).to_contain_text("a cat sleeping")
    assert ids(page).index("live/train") < ids(page).index("live/cat")
    assert page.evaluate("window.train.isConnected && window.train.dataset.id") == "live/train"

    system.run("delete", "captions", "live/cat", "live/train")
    expect(card(page, "live/cat")).to_have_count(0)
    expect(card(page, "live/train")).to_have_count(0)
    assert page.evaluate("window.sameDocument")


def test_publishing_from_the_page(page: Page, tmp_path: Path) -> None:
    opened(page, "/?q=a+lighthouse+in+a+storm&target=captions")
    assert page.input_value("#q") == "a lighthouse in a storm"
    page.fill("#caption", "a lighthouse in a storm, seen from a boat")
    page.click("#publish")
    published = page.locator("#published li").first
    expect(published).to_contain_text(re.compile(r"searchable after \d+ ms"))
    expect(page.locator("#results li").first).to_contain_text("seen from a boat")

    page.get_by_text("Pictures", exact=True).click()
    drop(page, "#drop", drawing(tmp_path / "a green disc.png", "green"), "image/png")
    expect(published).to_contain_text(re.compile(r"disc.*searchable after \d+ ms"))
    picture = page.locator("#results img[alt='a green disc']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96

    note = tmp_path / "note.txt"
    note.write_text("no picture")
    drop(page, "#drop", note, "text/plain")
    expect(published).to_contain_text("What was dropped is no picture file.")


def test_searching_by_picture_and_by_item(page: Page, tmp_path: Path) -> None:
    opened(page)
    for colour in ("orange", "purple"):
        path = drawing(tmp_path / f"{colour} disc.png", colour)
        page.set_input_files("#picture-file", path)
        done = page.locator("#published li[data-state=done]").first
        expect(done).to_contain_text(f"{colour} disc")
    page.set_input_files("#query-file", tmp_path / "purple disc.png")
    expect(page.locator("#example-name")).to_have_text("purple disc.png")
    expect(page.locator("#results li").first).to_contain_text("purple disc")
    expect(page.locator("#results li").first).to_contain_text("1.000")

    page.get_by_role("button", name="More like orange disc").click()
    expect(page).to_have_url(re.compile(r"[?]id=page%2F\w+&of=images$"))
    expect(page.locator("#results li").first).to_contain_text("orange disc")
    page.reload()
    expect(page.locator("#results li").first).to_contain_text("orange disc")


def test_a_refusal_says_why(page: Page, seen: Seen, tmp_path: Path) -> None:
    opened(page)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n, but nothing after it")
    page.set_input_files("#picture-file", broken)
    failed = page.locator("#published li[data-state=failed]")
    expect(failed).to_contain_text("broken.png")
    assert len(failed.locator(".outcome").inner_text()) > 10

    def refuse(route: Route) -> None:
        route.fulfill(
            status=413,
            content_type="application/problem+json",
            body=json.dumps({"title": "Too large", "detail": "image: limit 7 bytes, got 8"}),
        )

    page.route("**/v1/items", refuse)
    page.fill("#caption", "too much")
    page.press("#caption", "Enter")
    expect(page.locator("#published li").first).to_contain_text("image: limit 7 bytes, got 8")
    page.goto("/?id=nowhere&of=images")
    expect(page.locator("#problem")).to_contain_text("nowhere")
    # Chromium reports each refused request in the console; nothing else may stand there.
    assert all("Failed to load resource" in error for error in seen.errors)
    seen.errors.clear()


def test_keyboard_alone(system: System, page: Page) -> None:
    system.publish(("keys/boat", "a sailing boat"))
    opened(page)
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to results")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Tab")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("a sailing boat")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="By picture")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Captions")).to_be_checked()
    expect(page).to_have_url(re.compile(r"q=a\+sailing\+boat&target=captions$"))
    expect(card(page, "keys/boat")).to_be_visible(timeout=PATIENCE_MS)

    more = page.get_by_role("button", name="More like a sailing boat", exact=True)
    for _ in range(20):
        page.keyboard.press("Tab")
        if more.evaluate("node => node === document.activeElement"):
            break
    expect(more).to_be_focused()
    assert more.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"id=keys%2Fboat&of=captions"))
    expect(page.locator("#found")).to_be_focused()
    page.go_back()
    expect(page.locator("#q")).to_have_value("a sailing boat")


def test_a_lost_socket_is_resumed_with_the_cursor(system: System, page: Page, seen: Seen) -> None:
    sockets: list[WebSocketRoute] = []
    sent: list[dict[str, Any]] = []

    def relay(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        sockets.append(socket)

        def forward(message: str | bytes) -> None:
            sent.append(json.loads(message))
            server.send(message)

        socket.on_message(forward)

    page.route_web_socket("**/v1/live", relay)
    system.publish(("lost/owl", "an owl at night"))
    opened(page, "/?q=an+owl+at+night&target=captions")
    expect(card(page, "lost/owl")).to_be_visible(timeout=PATIENCE_MS)
    sockets[0].close(code=1013, reason="go away")
    system.publish(("lost/moth", "a moth at night"))
    expect(card(page, "lost/moth")).to_be_visible(timeout=PATIENCE_MS)
    expect(card(page, "lost/owl")).to_be_visible()
    first, second = (message for message in sent if message["op"] == "subscribe")
    assert (first["cursor"], second["query"]) == (None, first["query"])
    assert second["cursor"]


def test_the_list_goes_on_in_another_space(system: System, page: Page) -> None:
    system.publish(("space/heron", "a grey heron by a pond"))
    opened(page, "/?q=a+grey+heron+by+a+pond&target=captions")
    expect(card(page, "space/heron")).to_be_visible(timeout=PATIENCE_MS)
    page.evaluate("window.sameDocument = true")
    system.run("space", "create", "hash:48")
    system.run("space", "switch")
    try:
        page.wait_for_function(
            """async () => (await (await fetch('/v1/status')).json()).space.name === 'hash-48'"""
        )
        system.publish(("space/crane", "a grey crane by a pond"))
        expect(card(page, "space/crane")).to_be_visible(timeout=PATIENCE_MS)
        expect(card(page, "space/heron")).to_contain_text("1.000")
        assert ids(page)[0] == "space/heron"
    finally:
        system.run("space", "rollback")
        system.run("space", "drop", "hash-48")
    system.publish(("space/stork", "a grey heron in a pond"))
    expect(card(page, "space/stork")).to_be_visible(timeout=PATIENCE_MS)
    assert page.evaluate("window.sameDocument")


def test_a_paused_list_stands_still(system: System, page: Page) -> None:
    system.publish(("pause/one", "a kettle on a stove"))
    opened(page, "/?q=a+kettle+on+a+stove&target=captions")
    expect(card(page, "pause/one")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Pause").click()
    page.fill("#caption", "a kettle on a hot stove")
    page.click("#publish")
    expect(page.locator("#published li[data-state=done]")).to_have_count(1)
    before = ids(page)
    page.wait_for_timeout(500)
    assert ids(page) == before
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#results")).to_contain_text("a kettle on a hot stove")


def test_the_strip_shows_the_state_of_the_stream(page: Page) -> None:
    opened(page)
    for metric, figure in (
        ("behind_s", r"^\d+(\.\d)? (s|min)$"),
        ("events_per_s", r"^\d"),
        ("lag_records", r"^\d"),
    ):
        value = page.locator(f"[data-metric={metric}]")
        expect(value).to_have_text(re.compile(figure))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scrolling(
    system: System, page: Page, scheme: Any
) -> None:
    system.publish(("narrow/word", "w" * 300), ("narrow/" + "x" * 200, "a tall tree"))
    page.set_viewport_size({"width": 320, "height": 640})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    opened(page, "/?q=a+tall+tree&target=captions")
    expect(card(page, "narrow/word")).to_be_visible(timeout=PATIENCE_MS)
    page.locator("#publisher summary").click()
    expect(page.locator("#caption")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.evaluate("document.getAnimations().length") == 0


def test_applying_a_delta_as_the_contract_does(page: Page) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    cases = []
    for _ in range(400):
        old, new = _list(rng), _list(rng)
        cases.append((old, wire_list_changes(old, new)))
    page.goto("/")
    applied = page.evaluate(
        """async cases => {
            const { applyChanges } = await import("/static/client/client.js");
            return cases.map(([hits, changes]) => applyChanges(hits, changes));
        }""",
        cases,
    )
    for (old, changes), result in zip(cases, applied, strict=True):
        assert result == apply_changes(old, changes), f"seed {seed}"


def _list(rng: random.Random) -> list[dict[str, Any]]:
    chosen = rng.sample("abcdefghijkl", rng.randrange(13))
    return [
        {"id": item_id, "rank": rank, "score": rng.randrange(3) / 2}
        for rank, item_id in enumerate(chosen, start=1)
    ]
