"""`tidelens doctor` on the real broker: all well, and topics that somebody altered."""

import asyncio
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.admin import NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.settings import KafkaSettings
from contracts.supervision.children import module_command
from contracts.topics import Names, topic_specs
from streams.kafka.connection import KafkaConnection
from streams.topics.admin import create_topics
from tests.kits.broker_fixture import TestKafka

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

PARTITIONS = 2
RECORD_BYTES_MAX = 1_000_000


@pytest.fixture
def names() -> Names:
    return Names(f"doctor-{uuid.uuid4().hex[:8]}.", "hash-v1")


@pytest.fixture
def environment(kafka: TestKafka, names: Names, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "TIDELENS_BROKERS": kafka.bootstrap,
        "TIDELENS_TOPIC_PREFIX": names.prefix,
        "TIDELENS_MODEL": "hash",
        "TIDELENS_PARTITIONS": str(PARTITIONS),
        "TIDELENS_RECORD_BYTES_MAX": str(RECORD_BYTES_MAX),
        "TIDELENS_DATA": str(tmp_path / "data"),
        "TIDELENS_SNAPSHOTS": f"file:{tmp_path / 'bucket'}",
        "TIDELENS_PORT": "0",
        "TIDELENS_ENCODE_METRICS_PORT": "0",
    }


@pytest.fixture
async def connection(kafka: TestKafka, names: Names) -> KafkaConnection:
    connection = KafkaConnection(kafka.bootstrap, KafkaSettings())
    specs = topic_specs(names, partitions=PARTITIONS, content_bytes_max=RECORD_BYTES_MAX)
    await create_topics(connection, specs, replication_factor=1, min_insync_replicas=1)
    return connection


async def tidelens(
    environment: dict[str, str], *arguments: str, **other: str
) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        module_command("tidelens", *arguments),
        env={**environment, **other},
        capture_output=True,
        text=True,
        timeout=60,
    )


async def findings(environment: dict[str, str], *, rc: int) -> dict[str, list[dict[str, Any]]]:
    """Return the findings of `doctor --json` by name."""
    done = await tidelens(environment, "doctor", "--json")
    assert (done.returncode, done.stderr) == (rc, "")
    answer = orjson.loads(done.stdout)
    assert answer["ok"] is (rc == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in answer["findings"]:
        found.setdefault(finding["name"], []).append(finding)
    return found


async def test_all_is_well(
    connection: KafkaConnection, environment: dict[str, str], tmp_path: Path
) -> None:
    found = await findings(environment, rc=0)
    states = {name: {each["state"] for each in rows} for name, rows in found.items()}
    assert states.pop("allow roots") == {"skipped"}
    assert states.pop("precision") == {"skipped"}  # hash has one
    assert states.pop("memory") <= {"ok", "warning"}  # this machine's, as it is
    assert states.pop("disk") <= {"ok", "warning"}
    assert all(state == {"ok"} for state in states.values()), found
    assert [row["detail"] for row in found["broker"]] == [
        f"{connection.brokers} answers (as set)",
        f"1 reached as advertised: {connection.brokers}",
        "coordinators of 5 groups and transactions found",
        "all rights on 6 topics that roles need",
        "a fetch of 11 partitions was answered",
    ]
    assert found["topics"][0]["detail"] == "all 6 exist as they should"
    assert not list((tmp_path / "bucket").iterdir())
    assert not (tmp_path / "data").exists()
    table = (await tidelens(environment, "doctor")).stdout.splitlines()
    assert len(table) == sum(map(len, found.values()))


async def test_an_altered_topic_is_a_failed_line_with_its_fix(
    connection: KafkaConnection, names: Names, environment: dict[str, str]
) -> None:
    topic = names.content("images")
    async with connection.admin() as admin:
        altered = {"cleanup.policy": "delete"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, altered)])
    # Other lines too: alter_configs sets what it does not name back to the broker's defaults.
    rows = (await findings(environment, rc=1))["topics"]
    [policy] = [row for row in rows if "cleanup.policy" in row["detail"]]
    assert policy["state"] == "failed"
    assert policy["detail"] == f"{topic}: cleanup.policy is delete, want compact"
    assert policy["fix"].startswith("kafka-configs.sh ")
    assert policy["fix"].endswith(f"--alter --topic {topic} --add-config cleanup.policy=compact")


async def test_another_partition_count(
    connection: KafkaConnection, names: Names, environment: dict[str, str]
) -> None:
    topic = names.content("captions")
    async with connection.admin() as admin:
        await admin.create_partitions({topic: NewPartitions(PARTITIONS + 1)})
    [found] = (await findings(environment, rc=1))["topics"]
    assert found["detail"].startswith(f"topic {topic} was created with 2 partitions and has 3 now")
    other = f"{names.bare}-3."
    assert found["fix"].startswith(f"run `tidelens topics create --topic-prefix {other} --part")
    # The advice that followed from the setting alone is another one: there are no such topics.
    fewer = environment | {"TIDELENS_PARTITIONS": "1"}
    details = [row["detail"] for row in (await findings(fewer, rc=1))["topics"]]
    assert f"{topic}: partitions is 2, want 1" in details


async def test_the_fix_for_absent_topics_makes_them(
    environment: dict[str, str], names: Names
) -> None:
    [found] = (await findings(environment, rc=1))["topics"]
    assert f"{names.control} do not exist" in found["detail"]
    program, *arguments = found["fix"].split()
    assert program == "tidelens"
    assert (await tidelens(environment, *arguments)).returncode == 0
    assert (await findings(environment, rc=0))["topics"][0]["state"] == "ok"


async def test_a_user_whom_the_broker_refuses(
    kafka: TestKafka, environment: dict[str, str]
) -> None:
    refused = {
        "TIDELENS_BROKERS": kafka.sasl_bootstrap,
        "TIDELENS_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "TIDELENS_KAFKA_SASL_USERNAME": kafka.user,
        "TIDELENS_KAFKA_SASL_PASSWORD": "wrong",
    }
    found = await findings({**environment, **refused}, rc=1)
    assert found["broker"][0]["state"] == "failed"
    assert "TIDELENS_KAFKA_SASL_USERNAME" in found["broker"][0]["fix"]
    assert "wrong" not in str(found)
    assert found["topics"][0]["state"] == "skipped"
