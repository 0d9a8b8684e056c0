"""The guardian of Kafka: its command never outlives it, whichever of the two is killed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from contracts.supervision.children import module_command

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    files = ["--lock", str(tmp_path / "lock"), "--log", str(tmp_path / "log")]
    with subprocess.Popen(
        module_command("streams.devbroker.guard", *files, "--", *SLEEPS),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def guarded(guard: subprocess.Popen[bytes]) -> psutil.Process:
    assert guard.stdout is not None
    return psutil.Process(int(guard.stdout.readline().removeprefix(b"pid ")))


def test_what_it_guards_goes_with_it_when_it_is_killed(guard: subprocess.Popen[bytes]) -> None:
    command = guarded(guard)
    guard.kill()
    psutil.wait_procs([command], timeout=30)
    assert not command.is_running() or command.status() == psutil.STATUS_ZOMBIE


def test_the_signal_that_killed_what_it_guards_is_its_exit_code(
    guard: subprocess.Popen[bytes],
) -> None:
    guarded(guard).kill()
    assert guard.wait(30) == 128 + 9
