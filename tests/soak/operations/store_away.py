"""The snapshot store is away for a while.

The node serves on, says why no snapshot is written, and writes one once the store is back; a node
that starts from that snapshot finds every item.
"""

import asyncio
import time
from typing import Any

from tests.kits.roles import answering, free_port
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 200


async def run(ground: Ground) -> Outcome:
    store = await ground.s3()
    bucket = await store.new_bucket()
    port = free_port()
    arguments = ("--port", str(port))
    environment = {
        **store.environment,
        "TIDELENS_SNAPSHOTS": f"s3://{bucket}/snapshots",
        "TIDELENS_SNAPSHOT_EVERY_S": "2",
        "TIDELENS_SNAPSHOT_REFRESH_S": "2",
    }
    node = await ground.role("up", *arguments, **environment)
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        await _publish(client, 0)
        await client.post("/v1/admin/snapshot")
        await store.stop()
        await _publish(client, 1)
        away = await _snapshot_state(client, failed=True)
        await store.start()
        began = time.monotonic()
        await _snapshot_state(client, failed=False)
        healed_s = time.monotonic() - began
        await client.post("/v1/admin/snapshot")
        whole = (await client.get("/v1/status"))["items"]["captions"]
        await node.stop()
        again = await ground.role("up", *arguments, **environment)
        await answering(client, again)
        restored = (await client.get("/v1/status"))["items"]["captions"]
    reported = [f"status: {away['failure']}"]
    return Outcome(reported, healed_s, 2 * _ITEMS - min(whole, restored))


async def _publish(client: Client, first: int) -> None:
    """Publish captions, and wait until the node has them."""
    items = [
        {"target": "captions", "id": f"{first}-{n}", "text": f"item {first} {n}"}
        for n in range(_ITEMS)
    ]
    for token in await client.publish(items):
        await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})


async def _snapshot_state(client: Client, *, failed: bool) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            state: dict[str, Any] = (await client.get("/v1/status"))["snapshot"]
            if bool(state["failure"]) == failed:
                return state
            await asyncio.sleep(0.2)
