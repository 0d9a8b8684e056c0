"""`GET /v1/live`: the live protocol as server-sent events, over a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from api.app import background
from tests.kits.api_kit import Kit, serving

pytestmark = pytest.mark.anyio


class Stream:
    """The events of one response, parsed as the HTML standard says (one data line each)."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def event(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        async with asyncio.timeout(30):
            while True:
                line = await anext(self._lines)
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields.keys() - {":"}:
                    return fields

    async def message(self) -> Any:
        event = await self.event()
        message = orjson.loads(event["data"])
        assert message["type"] == event["event"]
        assert message.get("cursor") == event.get("id")
        return message


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[Kit, httpx.AsyncClient]]:
    kit = Kit(**settings)
    kit.caption("a", "red cat", metadata={"year": 2001})
    kit.caption("b", "blue dog")
    async with (
        serving(kit.app, kit.settings) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        yield kit, http


ASKED = {"q": "red cat", "target": "captions", "k": 1}


async def test_snapshot_delta_and_resuming_by_the_last_id() -> None:
    async with served() as (kit, http):
        async with http.stream("GET", "/v1/live", params=ASKED) as response:
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            stream = Stream(response)
            snapshot = await stream.message()
            assert [hit["id"] for hit in snapshot["hits"]] == ["a"]
            kit.index.remove("captions", "a")
            delta = await stream.message()
            assert [c["change"] for c in delta["changes"]] == ["leave", "enter"]
        await kit.until("tidelens_live_subscriptions", 0)
        for given in (
            {"headers": {"Last-Event-ID": delta["cursor"]}},
            {"params": {"cursor": delta["cursor"]}},
        ):
            parameters = {**ASKED, **given.get("params", {})}
            async with http.stream(
                "GET", "/v1/live", params=parameters, headers=given.get("headers")
            ) as response:
                assert (await Stream(response).message())["type"] == "resumed"


async def test_a_whole_query_a_filter_and_the_other_mode() -> None:
    async with served() as (_, http):
        whole = {"query": '{"text": "red cat", "target": "captions", "k": 2}'}
        async with http.stream("GET", "/v1/live", params=whole) as response:
            assert len((await Stream(response).message())["hits"]) == 2
        for condition in ("year > 2000", '{"range": {"year": {"gt": 2000}}}'):
            asked = {**ASKED, "k": 5, "filter": condition}
            async with http.stream("GET", "/v1/live", params=asked) as response:
                assert len((await Stream(response).message())["hits"]) == 1
        asked = {**ASKED, "mode": "matches"}
        async with http.stream("GET", "/v1/live", params=asked) as response:
            assert (await Stream(response).message())["type"] == "resumed"


@pytest.mark.parametrize(
    ("asked", "status", "field"),
    [
        ({}, 400, None),
        ({**ASKED, "k": "many"}, 400, "k"),
        ({**ASKED, "k": "0"}, 400, "query.k"),
        ({**ASKED, "k": "[1"}, 400, "k"),
        ({**ASKED, "what": "1"}, 400, "what"),
        ({"query": "3"}, 400, "query"),
        ({**ASKED, "filter": "year >"}, 400, None),
        ({**ASKED, "filter": f"year > {2**64}"}, 400, "filter"),
        ({**ASKED, "filter": f'{{"eq": {{"year": {2**64}}}}}'}, 400, "filter.eq.year"),
        ({"query": f'{{"text": "a", "k": {2**64}}}'}, 400, "query.k"),
        ({**ASKED, "cursor": "none of ours"}, 400, "cursor"),
        ({"id": "nobody", "of": "captions"}, 404, "id"),
        ({**ASKED, "k": "1000"}, 400, "k"),
    ],
)
async def test_what_is_refused_is_a_problem_and_no_stream(
    asked: dict[str, Any], status: int, field: str | None
) -> None:
    async with served() as (kit, http):
        answer = await http.get("/v1/live", params=asked)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        if field is not None:
            assert answer.json()["field"] == field
        await kit.until("tidelens_live_connections", 0)


@pytest.mark.parametrize("name", ["k", "throttle_ms"])
async def test_a_number_of_more_than_64_bits_names_its_limit(name: str) -> None:
    async with served() as (_, http):
        answer = await http.get("/v1/live", params={**ASKED, name: str(2**64)})
        problem = answer.json()
        assert (answer.status_code, problem["field"], problem["value"]) == (400, name, str(2**64))
        assert f"limit {2**64 - 1} (64 bits), got {2**64}" in problem["detail"]


async def test_an_item_that_goes_ends_the_stream() -> None:
    async with served() as (kit, http):
        asked = {"id": "a", "of": "captions", "target": "captions"}
        async with http.stream("GET", "/v1/live", params=asked) as response:
            stream = Stream(response)
            await stream.message()
            kit.index.remove("captions", "a")
            while (message := await stream.message())["type"] != "error":
                pass
            assert message["code"] == "query_item_gone"
            with pytest.raises(StopAsyncIteration):
                await stream.event()


async def test_silence_is_broken_and_one_too_many_is_429() -> None:
    async with (
        served(connections_max=1) as (kit, http),
        http.stream("GET", "/v1/live", params=ASKED) as response,
    ):
        stream = Stream(response)
        await stream.message()
        [session] = kit.app.state.live._sessions
        session.check(session._heartbeat_at + 16)
        assert (await anext(stream._lines)) == ": "
        answer = await http.get("/v1/live", params=ASKED)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"


async def test_the_head_alone_ends() -> None:
    async with served() as (kit, http):
        answer = await http.head("/v1/live", params=ASKED, timeout=60)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        # The same connection goes on.
        assert (await http.get("/healthz", timeout=60)).status_code == 200
        assert not kit.sample("tidelens_live_connections")


async def test_a_server_that_stops_does_not_wait_for_it() -> None:
    async with served() as (kit, http):
        running = asyncio.create_task(background(kit.app)["live"]())
        async with http.stream("GET", "/v1/live", params=ASKED) as response:
            stream = Stream(response)
            await stream.message()
            running.cancel()
            with pytest.raises(StopAsyncIteration):
                await stream.event()
