"""The client: addresses where no server is, and a live list over restarts and from a cursor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import start_http_server

import tidelens
from contracts.errors import ConfigurationError, RejectedRequest
from contracts.metrics import Metrics
from tests.kits.api_kit import Kit, serving
from tests.kits.roles import free_port
from tests.oracles.logged_index import LoggedIndex
from tidelens.client import Client, ServerUnavailable, Update

pytestmark = pytest.mark.anyio

QUERY = {"text": "red cat", "target": "captions", "k": 2}


@pytest.fixture
def kit() -> Kit:
    kit = Kit()
    for item_id, text in (("a", "red cat"), ("b", "red dog"), ("c", "blue dog")):
        kit.caption(item_id, text)
    return kit


@asynccontextmanager
async def started(kit: Kit, port: int) -> AsyncIterator[Kit]:
    """Start another server on the kit's index, as after a restart."""
    again = Kit(index=kit.index)
    async with serving(again.app, again.settings, port):
        yield again


@asynccontextmanager
async def watching(port: int, **options: Any) -> AsyncIterator[AsyncIterator[Update]]:
    async with Client(f"http://127.0.0.1:{port}") as client:
        updates = client.watch(options.pop("query", QUERY), **options)
        yield updates
        await updates.aclose()  # type: ignore[attr-defined]


async def following(updates: AsyncIterator[Update]) -> Update:
    async with asyncio.timeout(90):
        return await anext(updates)


def changed(update: Update) -> list[tuple[str, str]]:
    return [(change["change"], change["id"]) for change in update.changes]


def ids(update: Update) -> list[str]:
    return [hit["id"] for hit in update.hits]


async def test_a_list_goes_on_over_restarts_of_the_server(kit: Kit) -> None:
    port = free_port()
    async with watching(port) as updates:
        async with started(kit, port):
            first = await following(updates)
            assert (first.event, ids(first)) == ("snapshot", ["a", "b"])
        async with started(kit, port):
            resumed = await following(updates)
            assert (resumed.event, resumed.changes) == ("resumed", [])
            assert resumed.hits == first.hits
            kit.index.remove("captions", "b")
            assert changed(await following(updates)) == [("leave", "b"), ("enter", "c")]
        kit.caption("d", "red cat")
        async with started(kit, port):
            missed = await following(updates)
            assert (missed.event, ids(missed)) == ("snapshot", ["a", "d"])
            assert changed(missed) == [("leave", "c"), ("enter", "d")]


async def test_a_server_that_is_not_ready_yet_is_waited_for(kit: Kit) -> None:
    port = free_port()
    async with watching(port) as updates:
        async with started(kit, port):
            first = await following(updates)
        kit.index.ready = False
        async with started(kit, port) as again:
            waiting = asyncio.create_task(following(updates))
            async with asyncio.timeout(90):
                # The error closes the connection at once; only this counter keeps a trace of it.
                while not again.sample("tidelens_live_messages_total", {"type": "error"}):
                    await asyncio.sleep(0.01)
            kit.index.ready = True
            resumed = await waiting
            assert (resumed.event, resumed.hits) == ("resumed", first.hits)


@pytest.mark.parametrize("with_list", [True, False])
async def test_going_on_from_an_earlier_update(kit: Kit, with_list: bool) -> None:
    port = free_port()
    async with started(kit, port):
        async with watching(port) as updates:
            earlier = await following(updates)
        held: dict[str, Any] = {"hits": earlier.hits} if with_list else {}
        async with watching(port, cursor=earlier.cursor, **held) as updates:
            update = await following(updates)
            assert update.event == ("resumed" if with_list else "snapshot")
            assert update.hits == earlier.hits
            # The list is right after the next change too.
            kit.caption("d", "red cat")
            assert ids(await following(updates)) == ["a", "d"]


async def test_what_is_refused_ends_the_watch(kit: Kit) -> None:
    port = free_port()
    async with started(kit, port):
        for options, field in (
            ({"query": {**QUERY, "k": 0}}, "query.k"),
            ({"cursor": "nonsense"}, "cursor"),
        ):
            async with watching(port, **options) as updates:
                with pytest.raises(RejectedRequest, match=field) as refused:
                    await following(updates)
                assert refused.value.field == field


async def test_no_server_at_the_start_is_told_at_once() -> None:
    port = free_port()
    async with watching(port) as updates:
        with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port}"):
            await following(updates)


@pytest.mark.parametrize(
    "url",
    ["foo", "", "http://", "http://[", "http://h:99999", "http://h:0", "ftp://h", "localhost:8080"],
)
async def test_what_is_no_url_of_a_server_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="want http://HOST:PORT, got"):
        Client(url)


async def test_another_server_is_told() -> None:
    server, thread = start_http_server(0, "127.0.0.1", registry=Metrics().registry)
    try:
        async with Client(f"http://127.0.0.1:{server.server_port}") as client:
            with pytest.raises(ServerUnavailable, match="is not a Tidelens server"):
                await client.get("/v1/status")
            with pytest.raises(ServerUnavailable, match="cannot open a live connection"):
                await anext(client.watch({"text": "a cat"}))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_matches_go_on_over_restarts_and_from_a_kept_cursor() -> None:
    index = LoggedIndex()
    kit = Kit(index=index)
    index.log = kit.log
    port = free_port()
    query = {"text": "red cat", "target": "captions", "min_score": 0.6}

    @asynccontextmanager
    async def served() -> AsyncIterator[None]:
        again = Kit(index=index)
        again.log.records = kit.log.records
        async with serving(again.app, again.settings, port):
            yield

    async with watching(port, query=query, mode="matches") as updates:
        async with served():
            assert (await following(updates)).event == "resumed"
            kit.caption("a", "red cat")
            kept = await following(updates)
            assert (kept.event, ids(kept), kept.changes) == ("match", ["a"], [])
        kit.caption("b", "red cat")
        kit.caption("c", "blue dog")
        async with served():
            assert (await following(updates)).event == "resumed"
            assert ids(await following(updates)) == ["b"]
            async with watching(port, query=query, mode="matches", cursor=kept.cursor) as other:
                assert (await following(other)).event == "resumed"
                assert ids(await following(other)) == ["b"]


async def test_what_goes_with_lists_only_is_refused(kit: Kit) -> None:
    port = free_port()
    async with started(kit, port), watching(port, mode="matches", throttle_ms=5) as updates:
        with pytest.raises(RejectedRequest, match="throttle_ms: goes with mode top only"):
            await following(updates)


def test_it_is_public() -> None:
    assert tidelens.Client is Client
    assert tidelens.Update is Update
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = tidelens.Server


async def test_what_was_told_before_is_not_told_again() -> None:
    index = LoggedIndex()
    kit = Kit(index=index)
    index.log = kit.log
    port = free_port()
    query = {"text": "red cat", "target": "captions", "min_score": 0.6}
    async with serving(kit.app, kit.settings, port):
        async with watching(port, query=query, mode="matches") as updates:
            await following(updates)
            kit.caption("a", "red cat")
            told = await following(updates)
        held = {"cursor": told.cursor, "hits": told.hits}
        async with watching(port, query=query, mode="matches", **held) as updates:
            resumed = await following(updates)
            assert (resumed.event, resumed.hits) == ("resumed", [])
