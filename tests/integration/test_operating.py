"""An operator's commands on a running node: snapshot, rebuild, index tune, digest --verify."""

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.supervision.children import module_command
from contracts.testing.encoder import HashEncoder
from tests.faults.kill_rounds import OFTEN, all_encoded, assert_index_is_the_log, churn, seed
from tests.kits.kafka import Collection, collection
from tests.kits.roles import MODEL, answering, free_port, of, role
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(150)]


class Command:
    """The command as an operator types it, for one collection and data directory."""

    def __init__(self, kit: Collection, data: Path, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._environment = {
            **os.environ,
            "TIDELENS_MODEL": MODEL,
            "TIDELENS_BROKERS": kit.connection.brokers,
            "TIDELENS_TOPIC_PREFIX": kit.names.prefix,
            "TIDELENS_DATA": str(data),
        }

    async def run(self, *arguments: str, rc: int = 0, asks: bool = False) -> str:
        more = ["--url", self._url] if asks else []
        process = await asyncio.create_subprocess_exec(
            *module_command("tidelens", *arguments, *more),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == rc, errors.decode()
        return (output if rc == 0 else errors).decode()

    async def json(self, *arguments: str, asks: bool = False) -> Any:
        return orjson.loads(await self.run(*arguments, "--json", asks=asks))


async def test_snapshots_rebuilds_and_digests(kafka, tmp_path: Path) -> None:
    port = free_port()
    often = OFTEN | {"TIDELENS_SNAPSHOT_EVERY_S": "3600", "TIDELENS_SCANNED_ROWS_MAX": "100000"}
    async with collection(kafka.bootstrap, space=HashEncoder().space.name, partitions=2) as kit:
        command = Command(kit, tmp_path / "data", port)
        arguments = of(kit, "--port", str(port))
        async with (
            role(tmp_path, "encode", *of(kit)),
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            async with role(tmp_path, "index", *arguments, **often) as node:
                await answering(client, node)
                dice = seed()
                await churn(kit, dice, 100)
                await all_encoded(kit)
                assert await command.json("snapshot", "list") == []
                first = (await command.json("snapshot", "create", asks=True))["name"]
                rebuilt = await command.json("rebuild", "--target", "captions", asks=True)
                assert [one["target"] for one in rebuilt] == ["captions"]
                assert rebuilt[0]["kind"] == "Flat"
                segments = await command.json("index", "tune", asks=True)
                assert {"target": "captions", "kind": "Flat"}.items() <= segments[-1].items()
                assert "captions: " in await command.run("index", "tune", asks=True)
                second = (await command.run("snapshot", "create", asks=True)).strip()
                listed = await command.json("snapshot", "list")
                assert [one["name"] for one in listed] == [f"0/{second}", f"0/{first}"]
                assert [one["pointer"] for one in listed] == [True, False]
                assert listed[0]["items"]["captions"] > 0
                assert (await command.run("snapshot", "list")).startswith(f"* 0/{second}  ")
                assert await command.run("snapshot", "verify") == f"0/{second}: whole\n"
                verified = await command.json("digest", "--verify", asks=True)
                assert verified == (await client.get("/v1/status"))["digests"]
                assert (await client.get("/readyz"))["snapshot"]["last"]["name"] == second
                # The node stays with the snapshot that it was given, although it stops with
                # changes to write.
                assert (await command.json("snapshot", "restore", f"0/{first}", asks=True)) == {
                    "pointed_to": f"0/{first}"
                }
                chosen = (await client.get("/readyz"))["snapshot"]["chosen"]
                assert chosen == f"0/{first}"
                refused = await command.run("snapshot", "create", asks=True, rc=1)
                assert "restart this node" in refused
                assert refused.count("\n") == 1
                await churn(kit, dice, 5)
                await all_encoded(kit)
                assert await node.stop() == 0
            assert (await command.json("snapshot", "list"))[0]["name"] == f"0/{first}"
            # The same without a node: forth, and back to the first, and then on with the log.
            for name in (second, first):
                printed = await command.run("snapshot", "restore", f"0/{name}", asks=True)
                assert printed == f"0/{name}: restart the node to begin from it\n"
                assert (await command.json("snapshot", "list"))[0]["name"] == f"0/{name}"
            refused = await command.run("snapshot", "restore", "0/123", asks=True, rc=1)
            assert refused == "tidelens: 0/123/manifest.json: missing\n"
            refused = await command.run("snapshot", "restore", f"1/{first}", asks=True, rc=1)
            assert "want one of this replica's, 0/NAME" in refused
            async with role(tmp_path, "index", *arguments, **often) as again:
                await answering(client, again)
                assert f"0/{first}" in again.log.read_text()
                await assert_index_is_the_log(kit, client)
            # All of them: one alone may be of the other snapshot only.
            for harmed in (tmp_path / "data" / "snapshots").rglob("vectors.faiss"):
                harmed.write_bytes(harmed.read_bytes()[:-1])
            refused = await command.run("snapshot", "verify", f"0/{first}", rc=1)
            assert "vectors.faiss: want" in refused


async def test_snapshots_of_another_log_are_refused(kafka, tmp_path: Path) -> None:
    port = free_port()
    async with collection(kafka.bootstrap, space=HashEncoder().space.name, partitions=2) as kit:
        async with (
            role(tmp_path, "index", *of(kit, "--port", str(port))) as node,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, node)
            command = Command(kit, tmp_path / "data", port)
            name = "0/" + (await command.json("snapshot", "create", asks=True))["name"]
        async with collection(kafka.bootstrap, space=HashEncoder().space.name) as other:
            elsewhere = Command(other, tmp_path / "data", port)
            for operation in ("verify", "restore"):
                refused = await elsewhere.run("snapshot", operation, name, rc=1)
                assert "topic_ids: today" in refused
                assert refused.count("\n") == 1
