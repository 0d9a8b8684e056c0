"""The commands as a user types them: topics, publish, lag, delete, and their one-line failures."""

import asyncio
import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.events.control_record import ActiveSpace, SpaceRef
from contracts.events.record import OutRecord
from contracts.settings import KafkaSettings
from contracts.supervision.children import module_command
from contracts.testing.encoder import HashEncoder
from contracts.wire.http_answers import LagAnswer
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog
from tests.kits.broker_fixture import TestKafka
from tests.kits.kafka import MURMUR2, RECORD_BYTES_MAX
from tidelens.runtime.run_file import Runtime, remember_model

pytestmark = pytest.mark.broker

Tidelens = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tidelens(kafka: TestKafka, tmp_path: Path) -> Tidelens:
    """Return the command, set to the test broker and to a topic prefix of its own."""
    environment = {
        **os.environ,
        "TIDELENS_BROKERS": kafka.bootstrap,
        "TIDELENS_TOPIC_PREFIX": f"cmd-{uuid.uuid4().hex[:8]}.",
        "TIDELENS_DATA": str(tmp_path / "data"),
        "TIDELENS_INLINE_BYTES_MAX": "1000",
    }

    def run(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            module_command("tidelens", *arguments),
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def answer(result: "subprocess.CompletedProcess[str]", *, rc: int = 0) -> Any:
    assert result.returncode == rc, result.stderr
    return orjson.loads(result.stdout)


def test_from_topics_to_deletion(tidelens: Tidelens, tmp_path: Path) -> None:
    described = answer(tidelens("topics", "describe", "--json"), rc=1)
    assert described["topics"] == []
    assert len(answer(tidelens("topics", "create", "--json"))["created"]) == 6
    assert answer(tidelens("topics", "create", "--json")) == {"created": [], "differences": []}
    refused = tidelens("topics", "create", "--partitions", "9")
    assert refused.returncode == 2
    assert "has 4 partitions, 9 are wanted" in refused.stderr

    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "small.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (folder / "large.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF".ljust(1_001))
    (folder / "notes.md").write_text("no caption")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "one.txt").write_text("a caption")
    published = tidelens("publish", str(folder))
    assert published.returncode == 1
    assert published.stdout == "published 3\n"
    assert f"not published: {folder}/empty.jpg: the file is empty" in published.stderr
    assert "left out: 1 .md" in published.stderr
    assert "1 pictures above 1000 bytes travel by reference" in published.stderr
    assert "\r" not in published.stderr  # no progress bar where nobody sees it
    (folder / "empty.jpg").unlink()
    again = answer(tidelens("publish", str(folder), "--json"))
    assert (again["published"], again["refused"]) == (3, [])

    lag = answer(tidelens("lag", "--json"))
    LagAnswer.model_validate(lag)
    assert sum(row["records"] for row in lag["partitions"]) == 6
    assert lag["behind_s"] > 0
    assert "RECORDS" in tidelens("lag").stdout

    gone = answer(tidelens("delete", "images", "small.jpg", "large.jpg", "--json"))
    assert gone["deleted"] == 2
    assert all(token["topic"].endswith(".images") for token in gone["tokens"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["publish", "."], "does not exist; `tidelens topics create` makes it"),
        (["lag"], "does not exist"),
        (["lag", "--brokers", "127.0.0.1:1"], "no Kafka broker at 127.0.0.1:1"),
        (["topics", "create", "--brokers", "nonsense"], "want HOST:PORT"),
        (["lag", "--topic-prefix", "no dot"], "TIDELENS_TOPIC_PREFIX"),
    ],
)
def test_failures_are_one_line_and_exit_code_2(
    tidelens: Tidelens, arguments: list[str], says: str
) -> None:
    result = tidelens(*arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_snapshots_are_those_of_the_space_that_is_served(
    tidelens: Tidelens, kafka: TestKafka, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for space in ("starter-v1", "hash-v1", "hash-7", "hash-48"):
        folder = data / "snapshots" / space / "0" / "0" / space[-1].rjust(20, "0")
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_bytes(b"torn")

    def listed(*arguments: str) -> list[str]:
        return [
            one["name"][-1] for one in answer(tidelens("snapshot", "list", "--json", *arguments))
        ]

    prefix = f"cmd-{uuid.uuid4().hex[:8]}."
    ours, away = ["--topic-prefix", prefix], ["--brokers", "127.0.0.1:1"]
    assert listed(*ours) == ["1"]
    # 1. Before a switch the running `up` knows it, topics or not.
    Runtime("k:1", "http://h:1", os.getpid(), "hash-7", "hash:7", 0).write(data)
    assert listed(*ours) == ["7"]
    assert listed(*ours, "--model", "hash") == ["1"]
    # 2. After it the control topic does, and while Kafka is away what was remembered of that.
    tidelens("topics", "create", *ours)
    # A space without topics would be ignored.
    tidelens("topics", "create", *ours, "--model", "hash:48")
    assert listed(*ours) == ["7"]
    new = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")
    record = ActiveSpace(new, None, 1.0).record(f"{prefix}control")
    asyncio.run(published(kafka.bootstrap, record))
    assert listed(*ours) == ["8"]
    assert listed(*ours, *away) == ["7"]
    remember_model(data, "hash:48")
    assert listed(*ours, *away) == ["8"]


async def published(bootstrap: str, record: OutRecord) -> None:
    connection = KafkaConnection(bootstrap, KafkaSettings())
    async with KafkaEventLog.open(
        connection, partition_of=MURMUR2, record_bytes_max=RECORD_BYTES_MAX
    ) as event_log:
        await event_log.publish([record])


def test_print_asks_no_broker(tidelens: Tidelens) -> None:
    printed = answer(tidelens("topics", "print", "--json", "--brokers", "k:1"))
    assert len(printed["topics"]) == 6
    assert sorted(printed["acls"]) == ["encoder", "gateway", "index", "operator", "publisher"]
    assert tidelens("topics", "print", "--principal", "cook=x").returncode == 2
