"""A bucket does not let us list: the doctor names it, and the node serves on without snapshots.

Once the permission is there, the next snapshot is written, and a restart finds every item.
"""

import asyncio
import time

import orjson

from tests.kits.roles import answering, free_port, said
from tests.kits.versitygw import VersityServer
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 50


async def run(ground: Ground) -> Outcome:
    store = await ground.s3()
    if not isinstance(store, VersityServer):
        return Outcome(["left out: S3Mock has no permissions"], 0.0, 0)
    bucket = await store.new_bucket()
    actions = ("PutObject", "GetObject", "DeleteObject", "AbortMultipartUpload")
    environment = {
        **await store.user(bucket, *actions),
        "TIDELENS_DATA": str(ground.folder / "data"),
        "TIDELENS_SNAPSHOTS": f"s3://{bucket}/snapshots",
        "TIDELENS_SNAPSHOT_EVERY_S": "2",
    }
    _, shown, _ = await said("doctor", "--json", **environment)
    lines = [line for line in orjson.loads(shown)["findings"] if line["name"] == "bucket"]
    reported = [f"doctor: {line['detail']} -> {line['fix']}" for line in lines]
    assert [line["detail"].partition(":")[0] for line in lines] == ["list"], lines
    port = free_port()
    node = await ground.role("up", "--port", str(port), **environment)
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        items = [{"target": "captions", "id": f"{n}", "text": f"item {n}"} for n in range(_ITEMS)]
        for token in await client.publish(items):
            await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})
        failure = await _failure(client, wanted=True)
        reported.append(f"status: {failure}")
        await store.allow(bucket, environment["AWS_ACCESS_KEY_ID"], *actions, "ListBucket")
        began = time.monotonic()
        await _failure(client, wanted=False)
        healed_s = time.monotonic() - began
        _, shown, _ = await said("doctor", "--json", **environment)
        lines = [line for line in orjson.loads(shown)["findings"] if line["name"] == "bucket"]
        assert [line["state"] for line in lines] == ["ok"], lines
        await node.kill()
        again = await ground.role("up", "--port", str(port), **environment)
        await answering(client, again)
        found = (await client.get("/v1/status"))["items"]["captions"]
        assert "snapshot restored" in again.log.read_text()
    return Outcome(reported, healed_s, _ITEMS - found)


async def _failure(client: Client, *, wanted: bool) -> object:
    async with asyncio.timeout(60):
        while True:
            state = (await client.get("/v1/status"))["snapshot"]
            if bool(state["failure"]) == wanted and (wanted or state["last"]):
                return state["failure"]
            await asyncio.sleep(0.2)
