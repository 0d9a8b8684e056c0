"""Queries whose picture is elsewhere: a real server on loopback, and the node's own reader."""

import asyncio
import base64
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from consumers.references import ReferenceLimits, References
from contracts.score import Vectors
from contracts.settings import Settings
from tests.kits.api_kit import Kit

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

HOST = "pictures.test"
WHITE, BLACK = bytes([255] * 8), bytes([0] * 8)


async def loopback(host: str, port: int, family: int) -> list[tuple[int, str]]:
    return [(socket.AF_INET, "127.0.0.1")]


async def private(host: str, port: int, family: int) -> list[tuple[int, str]]:
    return [(socket.AF_INET, "10.0.0.1")]


class Site:
    """A server with one picture, which may be exchanged, held back or refused."""

    def __init__(self) -> None:
        self.port = 0
        self.picture = WHITE
        self.status = 200
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/a.png"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.go.wait()
        return web.Response(body=self.picture, status=self.status)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    found = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    found.go.set()
    await runner.cleanup()


@asynccontextmanager
async def opened(
    site: Site,
    lookup: Callable[[str, int, int], Awaitable[list[tuple[int, str]]]] = loopback,
    **settings: Any,
) -> AsyncIterator[Kit]:
    """Yield a node with two plain pictures, black and white."""
    usual: dict[str, Any] = {
        "reference_schemes": ["file", "http"],
        "reference_ports": [site.port],
        "reference_hosts_allowed": [HOST],
        "image_bytes_max": 100,
    }
    limits = ReferenceLimits.of_queries(Settings(**(usual | settings)))
    async with References(limits, lookup=lookup) as references:
        kit = Kit(references=references, **(usual | settings))
        for name, data in (("white", WHITE), ("black", BLACK)):
            kit.index.put("images", name, await kit.queries.image(data))
        yield kit


async def search(kit: Kit, image: Any, **query: Any) -> Any:
    response = await kit.http.post("/v1/search", json={"image": image, **query})
    return response.json()


async def refused(kit: Kit, image: Any, **query: Any) -> tuple[int, str, str]:
    problem = await search(kit, image, **query)
    assert problem["detail"].startswith(problem["field"])
    return problem["status"], problem["code"], problem["field"]


async def test_it_answers_as_the_bytes_do(site: Site) -> None:
    async with opened(site) as kit:
        given = await search(kit, base64.b64encode(WHITE).decode())
        assert given["hits"][0]["id"] == "white"
        digest = hashlib.sha256(WHITE).hexdigest()
        for image in (
            {"data": base64.b64encode(WHITE).decode()},
            site.url,
            {"ref": site.url},
            {"ref": site.url, "sha256": digest},
        ):
            assert (await search(kit, image))["hits"] == given["hits"], image
        site.picture = BLACK
        assert (await search(kit, {"ref": site.url}))["hits"][0]["id"] == "black"
        changed = await refused(kit, {"ref": site.url, "sha256": digest})
        assert changed == (400, "reference_changed", "image.sha256")
        fused = {"fuse": [{"image": {"ref": site.url}}, {"image": site.url, "weight": 0.5}]}
        answer = (await kit.http.post("/v1/search", json=fused)).json()
        assert answer["hits"][0]["id"] == "black"


async def test_it_can_be_classified(site: Site) -> None:
    async with opened(site) as kit:
        asked = {"image": {"ref": site.url}, "labels": ["a", "b"]}
        response = await kit.http.post("/v1/classify", json=asked)
        assert response.status_code == 200, response.text


async def test_only_what_encoders_may_read_is_read(site: Site) -> None:
    async with opened(site) as kit:
        for ref in (f"http://127.0.0.1:{site.port}/", f"http://[::1]:{site.port}/"):
            assert await refused(kit, {"ref": ref}) == (400, "reference_forbidden", "image.ref")
        metadata = {"ref": "http://169.254.169.254:80/latest"}
        assert await refused(kit, metadata) == (400, "reference_forbidden", "image.ref")
        for ref in ("https://a.test/", "s3://b/k", "data:image/png;base64,AAAA", " file:///etc"):
            assert await refused(kit, {"ref": ref}) == (400, "not_enabled", "image.ref"), ref
        site.status = 404
        assert await refused(kit, {"ref": site.url}) == (400, "reference_missing", "image.ref")
        site.status, site.picture = 200, bytes(101)
        assert (await refused(kit, {"ref": site.url}))[:2] == (400, "image_too_large_bytes")
    asked = site.asked
    async with opened(site, lookup=private, reference_hosts_allowed=[]) as kit:
        assert await refused(kit, site.url) == (400, "reference_forbidden", "image.ref")
    assert site.asked == asked


async def test_no_answer_tells_the_address_of_a_name(site: Site) -> None:
    """Any client could otherwise read what the server's name server says of its own network."""

    async def nobody_there(host: str, port: int, family: int) -> list[tuple[int, str]]:
        return [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.3")]

    for lookup, allowed, code, address in (
        (private, [], "reference_forbidden", "10.0.0.1"),
        (nobody_there, [HOST], "reference_unreachable", "127.0.0."),
    ):
        async with opened(site, lookup, reference_hosts_allowed=allowed) as kit:
            for endpoint, more in (("search", {}), ("classify", {"labels": ["a", "b"]})):
                asked = {"image": {"ref": site.url}, **more}
                response = await kit.http.post(f"/v1/{endpoint}", json=asked)
                assert response.json()["code"] == code
                assert HOST in response.text and address not in response.text
            async with kit.live() as live:
                await live.accepted()
                live.subscribe("s", image={"ref": site.url})
                error = await live.receive()
            assert error["code"] == code
            assert HOST in str(error) and address not in str(error)


async def test_files_are_not_for_whoever_can_ask(site: Site) -> None:
    assert "file" not in ReferenceLimits.of_queries(Settings()).schemes
    async with opened(site, allow_roots=["/"]) as kit:
        for ref in ("file:///etc/passwd", "FILE:/etc/passwd"):
            for image in (ref, {"ref": ref}):
                assert await refused(kit, image) == (400, "file_reference", "image.ref")


async def test_a_host_that_fails_is_told_at_once_and_asked_again_by_the_next(site: Site) -> None:
    async with opened(site) as kit:
        for status in (503, 429, 500):
            site.asked, site.status = 0, status
            assert await refused(kit, site.url) == (503, "reference_unreachable", "image.ref")
            assert site.asked == 1
        response = await kit.http.post("/v1/search", json={"image": site.url})
        assert response.headers["retry-after"]
        site.status = 200
        assert (await search(kit, site.url))["hits"]


async def test_it_does_not_wait_for_the_resolver_as_an_encoder_does(site: Site) -> None:
    down = True

    async def flaky(host: str, port: int, family: int) -> list[tuple[int, str]]:
        if down:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return await loopback(host, port, family)

    async with opened(site, lookup=flaky) as kit:
        async with asyncio.timeout(60):
            assert await refused(kit, site.url) == (503, "reference_unreachable", "image.ref")
        down = False
        assert (await search(kit, site.url))["hits"]


async def test_a_slow_host_is_waited_for_so_long(site: Site) -> None:
    async with opened(site, query_reference_timeout_s=0.1, reference_per_host_max=1) as kit:
        site.go.clear()
        # The second waits for the first one's place: its time is the same.
        found = await asyncio.gather(*(refused(kit, site.url) for _ in range(2)))
        assert found == [(504, "timed_out", "image.ref")] * 2
        problem = await search(kit, site.url, timeout_s=0.05)
        assert (problem["code"], problem["detail"][:9]) == ("timed_out", "timeout_s")
        site.go.set()
        assert (await search(kit, site.url))["hits"]


async def test_live_lists_are_of_the_picture_that_was_there_when_they_were_asked(
    site: Site,
) -> None:
    async with opened(site) as kit, kit.live() as live, kit.live() as other:
        for client, picture, first in ((live, WHITE, "white"), (other, BLACK, "black")):
            site.picture = picture
            await client.accepted()
            client.subscribe("s", image={"ref": site.url}, target="images")
            assert (await client.receive())["hits"][0]["id"] == first
        site.status = 500
        live.subscribe("t", image={"ref": site.url})
        error = await live.receive()
        assert (error["code"], error["field"]) == ("reference_unreachable", "image.ref")
        assert error["retry_after"]


async def test_a_picture_that_waits_to_be_encoded_leaves_its_place_to_the_next(site: Site) -> None:
    """References have few places in memory; the queue of pictures has a bound of its own."""
    async with opened(site, reference_held_max=1) as kit:
        encode, waiting, go = kit.queries.image, [], asyncio.Event()

        async def held(data: bytes) -> Vectors:
            waiting.append(data)
            await go.wait()
            return await encode(data)

        kit.queries.image = held  # type: ignore[method-assign]
        asking = [asyncio.create_task(search(kit, site.url)) for _ in range(3)]
        while len(waiting) < 3:
            await asyncio.sleep(0)
        go.set()
        assert all(answer["hits"] for answer in await asyncio.gather(*asking))


async def test_one_request_has_few_pictures_under_way(site: Site) -> None:
    async with opened(site, query_pictures_at_once=2) as kit:
        encode, under_way, most = kit.queries.image, 0, 0

        async def counted(data: bytes) -> Vectors:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            for _ in range(10):
                await asyncio.sleep(0)
            under_way -= 1
            return await encode(data)

        kit.queries.image = counted  # type: ignore[method-assign]
        parts = [{"image": base64.b64encode(bytes([n])).decode()} for n in range(1, 5)]
        fused = {"fuse": parts}
        response = await kit.http.post("/v1/search", json=[fused, *parts])
        assert response.status_code == 200, response.text
        assert most == 2
        async with kit.live() as live:
            await live.accepted()
            live.subscribe("s", **fused)
            assert (await live.receive())["type"] == "snapshot"
        assert most == 2
