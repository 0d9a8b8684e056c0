"""run.json: believed while the process that wrote it lives."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.settings import Settings
from tidelens.runtime import DEFAULT_BROKERS, Runtime, api_of, brokers_of

RUNNING = Runtime(
    brokers="127.0.0.1:1234", port=5678, pid=os.getpid(), space="starter-v1", model="starter"
)


@pytest.fixture
def ended_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_commands_find_the_running_up(tmp_path: Path) -> None:
    RUNNING.write(tmp_path)
    settings = Settings(data=tmp_path)
    assert Runtime.read(tmp_path) == RUNNING
    assert brokers_of(settings) == "127.0.0.1:1234"
    assert api_of(settings) == "http://127.0.0.1:5678"


def test_what_is_given_comes_first(tmp_path: Path) -> None:
    RUNNING.write(tmp_path)
    assert brokers_of(Settings(data=tmp_path, brokers="k:9")) == "k:9"


def test_without_one_the_usual_addresses(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, port=81)
    assert brokers_of(settings) == DEFAULT_BROKERS
    assert api_of(settings) == "http://127.0.0.1:81"


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
