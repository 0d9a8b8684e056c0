"""The guardian: `python -m streams.devbroker.guard --lock FILE --log FILE -- COMMAND...`

It starts COMMAND and makes sure that the command does not outlive this process or its parent. When
stdin ends (the parent is gone, even by kill -9) or on SIGTERM, the command is asked to stop, and
killed after a deadline. The lock is held while the command lives, so a start right after a kill
waits for the old process to end. The module uses the standard library only, because it must be up
in milliseconds.

It prints `pid N` on stdout once the command runs. Exit codes are the command's, 128 plus the number
of the signal that killed it, as a shell reports it, and 75 if somebody else holds the lock
(EX_TEMPFAIL of sysexits.h).
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from contracts.supervision.children import die_with_parent

LOCK_TAKEN = 75
_LOCK_WAIT_S = 20.0
_STOP_S = 15.0


def main() -> int:
    """Run the command under guard, and return its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()

    # Not filelock, as in other modules: it takes 50 ms to import.
    lock = arguments.lock.open("w")
    if not _locked(lock.fileno(), time.monotonic() + _LOCK_WAIT_S):
        return LOCK_TAKEN
    if arguments.log.exists():
        arguments.log.replace(arguments.log.with_suffix(".previous"))
    with arguments.log.open("wb") as output:
        # The lock's descriptor is not inherited: it ends with us, and we end after the command.
        child = subprocess.Popen(
            arguments.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for our parent, which stops us
    print(f"pid {child.pid}", flush=True)
    threading.Thread(target=_watch_parent, args=(stopping,), daemon=True).start()
    while child.poll() is None and not stopping.wait(0.05):
        pass
    code = _stopped(child)
    return 128 - code if code < 0 else code


def _locked(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            # Waiting for a dying process is worth it; waiting behind a live one ends in the
            # caller's clear message.
            if time.monotonic() > deadline or os.getppid() == 1:
                return False
            time.sleep(0.1)


def _watch_parent(stopping: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stopping.set()


def _stopped(child: "subprocess.Popen[bytes]") -> int:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
