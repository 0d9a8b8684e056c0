"""A broker advertises an address that nobody reaches, and one gives us no rights.

The doctor and every role name the address. Once it is corrected, the node heals without a restart.
A user without rights learns each one that is missing.
"""

import asyncio
import time

import orjson

from streams.devbroker.broker import LocalBroker, SaslListener
from tests.faults.forwarder import Forwarder
from tests.kits.broker_fixture import FAST
from tests.kits.roles import answering, free_port, said
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client


async def run(ground: Ground) -> Outcome:
    good, nobody = free_port(), free_port()
    name = await ground.stack.enter_async_context(Forwarder.open(f"127.0.0.1:{good}"))
    where = ("--brokers", name.address)
    broker = await _broker(ground, "kafka", good)
    assert (await said("topics", "create", *where, TIDELENS_PARTITIONS="2"))[0] == 0
    port = free_port()
    node = await ground.role("index", *where, "--port", str(port))
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        await broker.stop()
        wrong = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{nobody}"}
        broker = await _broker(ground, "kafka", good, **wrong)
        reported = [
            f"doctor: {await _doctor(name.address)}",
            f"topics describe: {(await said('topics', 'describe', *where))[2].strip()}",
            f"encode: {await _encode(*where)}",
        ]
        await _until(client, "unreachable")
        reported.append(f"log of the running node: {_last_error(node.log.read_text())}")
        assert all(f"127.0.0.1:{nobody}" in line for line in reported), reported
        await broker.stop()
        await _broker(ground, "kafka", good)
        began = time.monotonic()
        await _until(client, "reachable")
        healed_s = time.monotonic() - began
    reported.append(f"doctor of a user without rights: {await _without_rights(ground)}")
    return Outcome(reported, healed_s, 0)


async def _broker(
    ground: Ground, name: str, port: int = 0, sasl: SaslListener | None = None, **extra: str
) -> LocalBroker:
    folder = ground.folder / name
    broker = LocalBroker(folder, port=port, heap_mb=256, sasl=sasl, extra={**FAST, **extra})
    ground.stack.push_async_callback(broker.stop)
    await broker.start()
    return broker


async def _doctor(brokers: str, **environment: str) -> str:
    """Return doctor's lines about the broker that are not `ok`."""
    code, output, _ = await said(
        "doctor", "--json", TIDELENS_BROKERS=brokers, TIDELENS_PORT="0", **environment
    )
    rows = [row for row in orjson.loads(output)["findings"] if row["name"] == "broker"]
    bad = [
        f"{row['state']} {row['detail']} -> {row['fix']}" for row in rows if row["state"] != "ok"
    ]
    return f"exit code {code}; {'; '.join(bad)}"


async def _encode(*where: str) -> str:
    code, _, output = await said("encode", *where, TIDELENS_ENCODE_METRICS_PORT="0")
    return f"exit code {code}; {output.strip().splitlines()[-1]}"


async def _until(client: Client, state: str) -> None:
    async with asyncio.timeout(120):
        while (await client.get("/readyz"))["broker"] != state:
            await asyncio.sleep(0.1)


def _last_error(log: str) -> str:
    lines = [orjson.loads(line) for line in log.splitlines()]
    return [line["error"] for line in lines if line["event"] == "the broker does not answer"][-1]


async def _without_rights(ground: Ground) -> str:
    """Run a broker with ACLs, on which the plain listener's user may do everything."""
    acls = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    broker = await _broker(ground, "guarded", sasl=SaslListener(), **acls)
    assert (await said("topics", "create", "--brokers", broker.bootstrap))[0] == 0
    output = await _doctor(
        broker.sasl_bootstrap,
        TIDELENS_KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        TIDELENS_KAFKA_SASL_USERNAME="tester",
        TIDELENS_KAFKA_SASL_PASSWORD="secret",
    )
    assert "tidelens topics print" in output, output
    return output
