"""The guardian of Kafka: its command never outlives it, whichever of the two is killed."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from contracts.errors import PortInUse
from streams.broker import LocalBroker

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    files = ["--lock", str(tmp_path / "lock"), "--log", str(tmp_path / "log")]
    with subprocess.Popen(
        [sys.executable, "-m", "streams.guard", *files, "--", *SLEEPS],
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


def test_ports_are_held_from_others_until_the_broker_stops(tmp_path: Path) -> None:
    first, second = LocalBroker(tmp_path / "a"), LocalBroker(tmp_path / "b")
    first.take_ports()
    taken = first._ports
    assert taken is not None
    # A copy of a data directory wants the same port.
    (tmp_path / "b" / "kafka").mkdir(parents=True)
    (tmp_path / "b" / "kafka" / "port").write_text(str(taken[0]))
    second.take_ports()
    assert second._ports is not None and not {*second._ports} & {*taken}
    first.take_ports()
    assert first._ports == taken, "the same at every start"
    for port in taken:
        # Who binds it by its number and says that it may be reused, as Java does.
        with socket.create_server(("127.0.0.1", port)):
            pass
        with pytest.raises(OSError), socket.socket() as other:
            other.bind(("127.0.0.1", port))
    given = LocalBroker(tmp_path / "c", port=taken[0])
    with pytest.raises(PortInUse):
        given.take_ports()
    asyncio.run(first.stop())
    given.take_ports()
    assert given._ports is not None and given._ports[0] == taken[0]
    for broker in (second, given):
        asyncio.run(broker.stop())


def test_a_torn_port_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "port").write_text("")
    broker = LocalBroker(tmp_path)
    broker.take_ports()
    assert broker._ports is not None and broker._ports[0] > 0
    asyncio.run(broker.stop())
