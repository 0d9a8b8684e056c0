"""The space that answers, those kept beside it, and live subscriptions across a switch."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from contracts.events.control_record import ActiveSpace, CandidateSpace, SpaceRef
from contracts.supervision.side_tasks import SideTasks
from contracts.testing.encoder import HashEncoder
from streams.registry.control_topic import Control
from tests.kits.api_kit import Kit
from tests.kits.waiting import turns, until
from tidelens.client import Client, Update
from tidelens.runtime.spaces import ServedSpace, Spaces
from tidelens.server.server import listen, serve

pytestmark = pytest.mark.anyio

OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")


class Parts:
    """Spaces over kits in memory; a queue stands for the control topic."""

    def __init__(self) -> None:
        self.kits = {OLD: Kit(), NEW: Kit()}
        self.kits[OLD].caption("old", "red cat")
        self.kits[NEW].caption("new", "red cat")
        self.ready = {OLD: True, NEW: True}
        self.looks: Counter[SpaceRef] = Counter()
        self.open: list[SpaceRef] = []
        self.failures: list[Exception] = []
        self.control: asyncio.Queue[Control] = asyncio.Queue()
        self.spaces = Spaces(OLD, self.opening, SideTasks())
        self.url = ""

    @asynccontextmanager
    async def opening(self, ref: SpaceRef) -> AsyncIterator[ServedSpace]:
        if self.failures and ref == NEW:
            raise self.failures.pop()
        self.open.append(ref)

        async def part() -> None:
            await asyncio.Event().wait()

        try:
            yield ServedSpace(self.kits[ref].app, {"part": part}, lambda: self.is_ready(ref))
        finally:
            self.open.remove(ref)

    def is_ready(self, ref: SpaceRef) -> bool:
        self.looks[ref] += 1
        return self.ready[ref]

    async def followed(self) -> AsyncIterator[Control]:
        while True:
            yield await self.control.get()

    def say(self, current: SpaceRef, previous: SpaceRef | None) -> None:
        self.control.put_nowait(Control(ActiveSpace(current, previous, 1.0)))

    async def answers(self, ref: SpaceRef) -> None:
        """Wait until searches are answered by that space."""
        want = {OLD: "old", NEW: "new"}[ref]
        async with asyncio.timeout(30):
            while await self.found() != want:
                await asyncio.sleep(0.02)

    async def found(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as http:
            query = {"text": "red cat", "target": "captions"}
            answer = await http.post(f"{self.url}/v1/search", json=query)
            return answer.json()["hits"][0]["id"]


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    parts = Parts()
    listener = listen("127.0.0.1", 0)
    parts.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    tasks = [
        asyncio.create_task(parts.spaces.run(parts.followed)),
        asyncio.create_task(serve(parts.spaces.router, listener, frame_bytes_max=1_000_000)),
    ]
    async with asyncio.timeout(30):
        await parts.spaces.opened.wait()
    yield parts
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    listener.close()
    assert parts.open == []


async def test_the_first_space_answers_and_a_candidate_changes_nothing(parts: Parts) -> None:
    await parts.answers(OLD)
    parts.control.put_nowait(Control(None, CandidateSpace(NEW, 1.0, 2.0)))
    await until(lambda: NEW.space in parts.spaces.named)
    await turns(200)
    assert parts.open == [OLD]
    assert parts.spaces.describe() == {"answering": OLD.space, "kept": {OLD.space: True}}


async def test_a_space_answers_once_it_is_ready_and_the_old_one_stays_for_a_rollback(
    parts: Parts,
) -> None:
    parts.ready[NEW] = False
    parts.say(NEW, OLD)
    await until(lambda: parts.looks[NEW] >= 3)
    assert parts.open == [OLD, NEW]
    assert await parts.found() == "old"
    parts.ready[NEW] = True
    await parts.answers(NEW)
    parts.say(OLD, NEW)
    await parts.answers(OLD)
    assert sorted(parts.open, key=str) == sorted([OLD, NEW], key=str)


async def test_a_rollback_given_up_lets_the_old_space_go(parts: Parts) -> None:
    parts.say(NEW, OLD)
    await parts.answers(NEW)
    parts.say(NEW, None)
    async with asyncio.timeout(30):
        while parts.open != [NEW]:
            await asyncio.sleep(0.02)
    assert await parts.found() == "new"


async def test_a_space_that_cannot_be_opened_is_tried_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidelens.runtime.spaces._AGAIN_S", 0.05)
    parts.failures = [RuntimeError("no such model"), RuntimeError("nor now")]
    parts.say(NEW, OLD)
    await parts.answers(NEW)
    assert parts.failures == []


async def test_subscriptions_are_reset_and_go_on_in_the_new_space(parts: Parts) -> None:
    async with Client(parts.url) as client:
        updates = client.watch({"text": "red cat", "target": "captions", "k": 1})
        assert ids(await following(updates)) == ["old"]
        parts.say(NEW, OLD)
        reset = await following(updates)
        assert (reset.event, reset.cursor) == ("reset", None)
        assert reset.reason == "space_changed: from hash-v1 to hash-48"
        update = await following(updates)
        assert (update.event, ids(update)) == ("snapshot", ["new"])
        # What happens in the new space is pushed, and what happens in the old one is not.
        parts.kits[OLD].caption("late", "red cat")
        parts.kits[NEW].index.remove("captions", "new")
        update = await following(updates)
        assert (update.event, ids(update)) == ("delta", [])
        parts.say(OLD, NEW)
        assert (await following(updates)).event == "reset"
        assert ids(await following(updates)) == ["late"]
        await updates.aclose()


async def test_a_connection_without_subscriptions_is_closed_too(parts: Parts) -> None:
    url = parts.url.replace("http", "ws") + "/v1/live"
    async with connect(url, compression=None, proxy=None) as socket:
        await socket.send(orjson.dumps({"op": "ping"}).decode())
        await socket.recv()
        parts.say(NEW, OLD)
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(30):
                await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
        1012,
        "space_changed: from hash-v1 to hash-48",
    )


async def following(updates: AsyncIterator[Update]) -> Update:
    async with asyncio.timeout(30):
        return await anext(updates)


def ids(update: Any) -> list[str]:
    return [hit["id"] for hit in update.hits]
