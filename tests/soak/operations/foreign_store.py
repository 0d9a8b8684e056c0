"""Something other than the snapshot store answers: proxies, login pages, half answers.

The node starts while the store answers so, serves on with each of the answers, says why no snapshot
is written, and writes one once the store is back; a restart finds every item.
"""

import asyncio
import time
from contextlib import closing, suppress
from typing import Any

from contracts.errors import TidelensError
from tests.faults.fake_s3 import FOREIGN
from tests.kits.roles import Role, answering, free_port
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 20
# The unit tests have all; each of some takes S3's client all its attempts.
_ANSWERS = (
    "an ingress without a backend",
    "a login page",
    "an empty 500",
    "a 301",
    "truncated XML",
    "another protocol",
    "nothing",
)


class Passage:
    """Passes connections on to the store, or gives `foreign` as the answer to all requests."""

    def __init__(self, store: str) -> None:
        _, _, self._port = store.rpartition(":")
        self._open: set[asyncio.StreamWriter] = set()
        self.foreign: bytes | None = None

    def answers(self, foreign: bytes | None) -> None:
        self.foreign = foreign
        for writer in self._open:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError), closing(writer):
            if self.foreign is None:
                await self._pass_on(reader, writer)
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.foreign)
                await writer.drain()
        self._open.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", int(self._port))
        with closing(back):
            await asyncio.wait(
                [
                    asyncio.create_task(_copy(reader, back)),
                    asyncio.create_task(_copy(there, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


async def run(ground: Ground) -> Outcome:
    store = await ground.s3()
    bucket = await store.new_bucket()
    passage, between = Passage(store.url), free_port()
    server = await asyncio.start_server(passage.serve, "127.0.0.1", between)
    ground.stack.callback(server.close)
    environment = {
        **store.environment,
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{between}",
        "TIDELENS_SNAPSHOTS": f"s3://{bucket}/snapshots",
        "TIDELENS_SNAPSHOT_EVERY_S": "2",
    }
    port = free_port()
    passage.answers(FOREIGN["an ingress without a backend"])
    node = await ground.role("up", "--port", str(port), **environment)
    reported = []
    async with Client(f"http://127.0.0.1:{port}", timeout_s=None) as client:
        await answering(client, node)
        for n, name in enumerate(_ANSWERS):
            passage.answers(FOREIGN[name])
            await _publish(client, n)
            reported.append(f"status, {name}: {await _reason(client, node)}")
        passage.answers(None)
        began = time.monotonic()
        await _written(client)
        healed_s = time.monotonic() - began
        assert await node.stop() == 0
        again = await ground.role("up", "--port", str(port), **environment)
        await answering(client, again)
        items = (await client.get("/v1/status"))["items"]["captions"]
        log = again.log.read_text()
    assert "snapshot restored" in log
    return Outcome(reported, healed_s, len(_ANSWERS) * _ITEMS - items)


async def _publish(client: Client, of: int) -> None:
    items = [{"target": "captions", "id": f"{of}-{n}", "text": f"item {n}"} for n in range(_ITEMS)]
    for token in await client.publish(items):
        await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})


async def _reason(client: Client, node: Role) -> str:
    """Return why a requested snapshot failed; the node must live and answer."""
    try:
        made = await client.post("/v1/admin/snapshot")
    except TidelensError as error:
        refusal = str(error)
    else:
        raise AssertionError(f"a snapshot was written: {made}")
    assert node.process.returncode is None, node.log.read_text()[-2000:]
    status = await client.get("/v1/status")
    assert status["ready"]
    assert status["failing_tasks"] == {}, status["failing_tasks"]
    reason: str = status["snapshot"]["failure"]["reason"]
    assert "s3://" in reason and "s3://" in refusal
    return reason


async def _written(client: Client) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            with suppress(TidelensError):
                state: dict[str, Any] = (await client.get("/v1/status"))["snapshot"]
                if state["failure"] is None and state["last"] is not None:
                    return state
            await asyncio.sleep(0.2)
