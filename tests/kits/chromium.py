"""A Chromium for tests, with a node on the ports in memory for its pages to speak to."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser, sync_playwright

from tests.kits.api_kit import Kit, serving

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass(frozen=True)
class ServedKit:
    """A kit that is served in a thread of its own; `portal` calls functions in that thread."""

    kit: Kit
    portal: BlockingPortal
    url: str


@contextmanager
def served_kit() -> Iterator[ServedKit]:
    """Serve a new kit on a free loopback port."""
    kit = Kit()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(kit.app, kit.settings)) as port,
    ):
        yield ServedKit(kit, portal, f"http://127.0.0.1:{port}")


def chromium_path() -> str:
    """Return the path of Chromium; skip the test where there is none, but fail it in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        # In CI nothing may be skipped: a page that nobody opened is not a page that works.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium here")
    return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield browser
        browser.close()
