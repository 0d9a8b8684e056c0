"""The commands as a user types them: topics, publish, lag, delete, and their one-line failures."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.schema import LagAnswer
from tests.broker_fixture import TestKafka

pytestmark = pytest.mark.broker

Tidelens = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tidelens(kafka: TestKafka, tmp_path: Path) -> Tidelens:
    """Runs the command against the test broker, under a topic prefix of its own."""
    environment = {
        **os.environ,
        "TIDELENS_BROKERS": kafka.bootstrap,
        "TIDELENS_TOPIC_PREFIX": f"cmd-{uuid.uuid4().hex[:8]}.",
        "TIDELENS_DATA": str(tmp_path / "data"),
        "TIDELENS_INLINE_BYTES_MAX": "1000",
    }

    def run(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "tidelens", *arguments],
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
    (folder / "small.jpg").write_bytes(b"x")
    (folder / "large.jpg").write_bytes(b"x" * 1_001)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "one.txt").write_text("a caption")
    published = tidelens("publish", str(folder))
    assert published.returncode == 1
    assert published.stdout == "published 3\n"
    assert f"not published: {folder}/empty.jpg: the file is empty" in published.stderr
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


def test_print_asks_no_broker(tidelens: Tidelens) -> None:
    printed = answer(tidelens("topics", "print", "--json", "--brokers", "k:1"))
    assert len(printed["topics"]) == 6
    assert sorted(printed["acls"]) == ["encoder", "gateway", "index", "operator", "publisher"]
    assert tidelens("topics", "print", "--principal", "cook=x").returncode == 2
