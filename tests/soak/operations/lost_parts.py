"""The snapshot store loses parts of a snapshot, as a lifecycle rule deletes them.

The node notices at its next look, says so, and writes them again; the snapshot verifies, and a node
that starts from it finds every item.
"""

import asyncio
import re
import time
from pathlib import Path

import httpx
import orjson

from tests.kits.roles import answering, free_port, said
from tests.kits.versitygw import VersityServer
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 200
_CHECK_S = 2.0
_METRICS = r"tidelens_snapshot_blobs_(lacking|rewritten_total)"


async def run(ground: Ground) -> Outcome:
    store = await ground.s3()
    if not isinstance(store, VersityServer):
        return Outcome(["left out: only versitygw's objects can be deleted from here"], 0.0, 0)
    bucket = await store.new_bucket()
    environment = {
        **store.environment,
        "TIDELENS_SNAPSHOTS": f"s3://{bucket}/snapshots",
        "TIDELENS_SNAPSHOT_EVERY_S": "3600",
        # An older snapshot that lacks something would be reported for as long as it is kept.
        "TIDELENS_SNAPSHOTS_KEPT": "1",
        "TIDELENS_SNAPSHOT_CHECK_S": str(_CHECK_S),
    }
    variables = {"TIDELENS_DATA": str(ground.folder / "data"), **environment}
    port = free_port()
    node = await ground.role("up", "--port", str(port), **environment)
    healed, reported = [], []
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        items = [{"target": "captions", "id": f"{n}", "text": f"item {n}"} for n in range(_ITEMS)]
        for token in await client.publish(items):
            await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})
        await client.post("/v1/admin/snapshot")
        for what in ("/parts/", "/alive", "manifest.json", ""):
            before = _reports(node.log)
            gone = [key for key in await store.objects(bucket) if what in key]
            assert gone, what
            for key in gone:
                await store.delete(bucket, key)
            began = time.monotonic()
            await _healed(client, node.log, len(before))
            healed.append(time.monotonic() - began)
            reported.append(f"log, without {what or 'anything'}: {_reports(node.log)[-1]}")
            code, shown, error = await said("snapshot", "verify", **variables)
            assert code == 0, error
            reported.append(f"snapshot verify: {shown.strip()}")
        async with httpx.AsyncClient(trust_env=False) as http:
            metrics = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        reported += [f"metric {line}" for line in metrics.splitlines() if re.match(_METRICS, line)]
        await node.kill()
        again = await ground.role("up", "--port", str(port), **environment)
        await answering(client, again)
        found = (await client.get("/v1/status"))["items"]["captions"]
        assert "snapshot restored" in again.log.read_text()
    return Outcome(reported, max(healed), _ITEMS - found)


async def _healed(client: Client, log: Path, before: int) -> None:
    """It was noticed, and two looks later nothing lacks any more."""
    async with asyncio.timeout(60):
        while len(_reports(log)) == before:
            await asyncio.sleep(0.1)
        well_since = time.monotonic()
        while time.monotonic() - well_since < 2 * _CHECK_S:
            state = (await client.get("/v1/status"))["snapshot"]
            if state["failure"] is not None or state["lacking"]:
                well_since = time.monotonic()
            await asyncio.sleep(0.1)


def _reports(log: Path) -> list[str]:
    lines = [orjson.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line["reason"] for line in lines if line["event"] == "a snapshot is not whole any more"]
