"""Commands of a second terminal act on the collection of the running `up`.

That `up` has another topic prefix and another partitioner than the defaults, and the default
collection is in the same Kafka with the same ids. What contradicts the `up` is refused.
"""

import asyncio
import contextlib
import time

import orjson

from contracts.errors import TidelensError
from tests.kits.roles import answering, free_port, said
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 40


async def run(ground: Ground) -> Outcome:
    broker = await ground.broker()
    bystander, port = free_port(), free_port()
    await ground.role(
        "up",
        "--brokers",
        broker.bootstrap,
        "--port",
        str(bystander),
        TIDELENS_DATA=str(ground.folder / "bystander"),
    )
    other = await ground.role(
        "up",
        "--brokers",
        broker.bootstrap,
        "--topic-prefix",
        "other.",
        "--port",
        str(port),
        TIDELENS_PARTITIONER="crc32",
    )
    there = {"TIDELENS_DATA": str(ground.folder / "data")}
    items = ground.folder / "items.jsonl"
    items.write_bytes(
        b"\n".join(orjson.dumps({"id": f"c{n}", "text": f"item {n}"}) for n in range(_ITEMS))
    )
    reported = []
    async with (
        Client(f"http://127.0.0.1:{bystander}") as by,
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        await answering(client, other)
        await _until(by, 0)
        for where in (there, {"TIDELENS_DATA": str(ground.folder / "bystander")}):
            await _ran("publish", str(items), **where)
        began = time.monotonic()
        await _until(client, _ITEMS)
        await _until(by, _ITEMS)
        ids = [f"c{n}" for n in range(10)]
        _, acted_on = await _ran("delete", "captions", *ids, **there)
        reported.append(f"delete: {acted_on.strip()}")
        await _until(client, _ITEMS - 10)
        healed_s = time.monotonic() - began
        letters, _ = await _ran("dead-letters", "list", "--json", **there)
        assert orjson.loads(letters) == [], letters
        kept = (await by.get("/v1/status"))["items"]["captions"]
        code, _, error = await said(
            "delete", "captions", "c0", TIDELENS_TOPIC_PREFIX="tidelens.", **there
        )
        assert code == 2, error
        reported.append(f"exit code 2: {error.strip()}")
    return Outcome(reported, healed_s, _ITEMS - kept)


async def _ran(*arguments: str, **environment: str) -> tuple[str, str]:
    code, out, error = await said(*arguments, **environment)
    assert code == 0, error
    return out, error


async def _until(client: Client, captions: int) -> None:
    """Wait until the node has so many captions."""
    async with asyncio.timeout(90):
        while True:
            with contextlib.suppress(TidelensError):
                status = await client.get("/v1/status")
                if (status["items"] or {}).get("captions") == captions:
                    return
            await asyncio.sleep(0.2)
