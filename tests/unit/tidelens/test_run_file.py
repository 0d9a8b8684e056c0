"""The file run.json is believed while the process that wrote it lives."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.settings import Settings
from tidelens.runtime.run_file import RunFile, Runtime, model_of, url_of

RUNNING = Runtime(
    brokers="127.0.0.1:1234",
    url="http://10.0.0.7:5678",
    pid=os.getpid(),
    space="hash-v1",
    model="hash",
    metrics_port=5679,
)


@pytest.fixture
def ended_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_commands_find_the_running_up(tmp_path: Path) -> None:
    RUNNING.write(tmp_path)
    assert Runtime.read(tmp_path) == RUNNING
    assert model_of(Settings(data=tmp_path)) == "hash"


def test_without_one_the_model_is_that_of_the_settings(tmp_path: Path) -> None:
    assert model_of(Settings(data=tmp_path)) == "starter"


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fe80::7", "[fe80::7]"), ("node", "node")],
)
def test_a_server_is_reached_where_it_listens(host: str, reached: str) -> None:
    assert url_of(host, 80) == f"http://{reached}:80"


def test_children_come_and_go_in_the_file(tmp_path: Path) -> None:
    run_file = RunFile(tmp_path)
    run_file.child("kafka", 10)
    assert Runtime.read(tmp_path) is None
    run_file.write(RUNNING)
    assert Runtime.read(tmp_path) == replace(RUNNING, children={"kafka": 10})
    run_file.child("kafka", 11)
    run_file.child("encode hash", 12)
    run_file.child("encode hash", None)
    assert Runtime.read(tmp_path) == replace(RUNNING, children={"kafka": 11})
    run_file.remove()
    run_file.child("kafka", 12)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_one_is_not_believed(tmp_path: Path, ended_pid: int) -> None:
    replace(RUNNING, pid=ended_pid).write(tmp_path)
    assert Runtime.read(tmp_path) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"brokers": "a"}'])
def test_a_damaged_file_is_not_believed(tmp_path: Path, damage: bytes) -> None:
    RUNNING.write(tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(damage)
    assert Runtime.read(tmp_path) is None


def test_only_our_own_is_removed(tmp_path: Path) -> None:
    replace(RUNNING, pid=os.getppid()).write(tmp_path)
    Runtime.remove(tmp_path)
    assert Runtime.read(tmp_path) is not None
    RUNNING.write(tmp_path)
    Runtime.remove(tmp_path)
    Runtime.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
