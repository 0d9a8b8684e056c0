"""The encode role while its model loads, in a process: a thread that loads cannot be ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest

ENDS_S = 60
# The loader blocks for ever, as do the threads that it started for a download.
BLOCKED = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from tidelens.runtime import encode_role as encoding
from tidelens.__main__ import main

def load(settings):
    ThreadPoolExecutor().submit(threading.Event().wait)
    print("loading", flush=True)
    threading.Event().wait()

encoding._load = load
main()
"""
FAILING = """
from contracts.errors import ModelMissing
from tidelens.runtime import encode_role as encoding
from tidelens.__main__ import main

def load(settings):
    raise ModelMissing("no such model")

encoding._load = load
main()
"""
BROKERS = b"127.0.0.1:1\n"


@contextmanager
def encoder(program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, "encode", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Another process of the test run may hold the usual port, which would be a line of the log.
        env={**os.environ, "TIDELENS_ENCODE_METRICS_PORT": "0"},
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until_loading(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert any(b"loading" in line for line in process.stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("told", [b"", BROKERS, None], ids=["waits", "attached", "on its own"])
def test_it_stops_at_once_while_the_model_loads(number: signal.Signals, told: bytes | None) -> None:
    arguments = ["--attached"] if told is not None else ["--brokers", "127.0.0.1:1"]
    with encoder(BLOCKED, *arguments) as process:
        assert process.stdin is not None
        process.stdin.write(told or b"")
        until_loading(process)
        process.send_signal(number)
        assert process.wait(ENDS_S) == 0


@pytest.mark.parametrize("told", [b"", BROKERS])
def test_it_goes_with_its_parent_while_the_model_loads(told: bytes) -> None:
    with encoder(BLOCKED, "--attached") as process:
        assert process.stdin is not None
        process.stdin.write(told)
        until_loading(process)
        process.stdin.close()
        assert process.wait(ENDS_S) == 0


def test_a_model_that_cannot_be_loaded_is_one_line() -> None:
    with encoder(FAILING, "--brokers", "127.0.0.1:1") as process:
        out, _ = process.communicate(timeout=ENDS_S)
    # A line of the log, like all others: nothing in a log of JSON is plain text.
    (line,) = out.splitlines()
    told = orjson.loads(line)
    assert (process.returncode, told["event"], told["level"]) == (2, "no such model", "error")
