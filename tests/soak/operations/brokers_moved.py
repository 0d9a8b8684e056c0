"""The brokers come back at other addresses behind the same bootstrap name.

Pods do so when a cluster is made again from its disks. Encoder, node and publisher find the brokers
by the name, without a restart; what was published before and after is found.
"""

import asyncio
import time

from contracts.errors import TidelensError
from streams.devbroker.broker import LocalBroker
from tests.faults.forwarder import Forwarder
from tests.kits.broker_fixture import FAST
from tests.kits.roles import answering, free_port, said
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 20


async def run(ground: Ground) -> Outcome:
    before = await ground.broker()
    name = await ground.stack.enter_async_context(Forwarder.open(before.bootstrap))
    port = free_port()
    where = ("--brokers", name.address)
    assert (await said("topics", "create", *where, TIDELENS_PARTITIONS="2"))[0] == 0
    await ground.role("encode", *where)
    node = await ground.role("index", *where, "--port", str(port))
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        await _publish(client, 0)
        await before.kill()
        away_s = await _until(client, "unreachable")
        after = LocalBroker(ground.folder / "kafka", port=free_port(), heap_mb=256, extra=FAST)
        ground.stack.push_async_callback(after.stop)
        name.to = await after.start()
        began = time.monotonic()
        await _publish(client, 1)
        found_s = time.monotonic() - began
        await _until(client, "reachable")
        healed_s = time.monotonic() - began
        items = (await client.get("/v1/status"))["items"]["captions"]
    reported = [
        f"readyz: broker unreachable after {away_s:.1f} s",
        f"search: what was published at the new address is found after {found_s:.1f} s",
        f"readyz: broker reachable after {healed_s:.1f} s",
    ]
    return Outcome(reported, healed_s, 2 * _ITEMS - items)


async def _until(client: Client, state: str) -> float:
    began = time.monotonic()
    async with asyncio.timeout(120):
        while (await client.get("/readyz"))["broker"] != state:
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def _publish(client: Client, round_: int) -> None:
    """Publish as soon as that goes, and wait until all is found."""
    items = [
        {"target": "captions", "id": f"{round_}-{n}", "text": f"item {round_} {n}"}
        for n in range(_ITEMS)
    ]
    async with asyncio.timeout(300):
        while True:
            try:
                tokens = await client.publish(items)
                break
            except TidelensError:
                await asyncio.sleep(0.2)
        for token in tokens:
            await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 60})
