"""Start a child process that finds the modules of Tidelens, and end it with its parent."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` in a process of its own.

    `python -m` alone puts the working directory first on the import path, where a folder
    `streams/` of the user would hide the package of that name. `-P` leaves that directory out.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process, by SIGKILL, as soon as its parent ends.

    `parent` is the parent's process id. The kernel does it even while native code hangs and lets no
    thread of this process run. It watches the thread that started this process, which must live as
    long as this process should. A child that has something to close, as an encoder and the guard of
    a broker have, waits for the end of its standard input instead.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # The parent ended before the call above.
        os.kill(os.getpid(), signal.SIGKILL)
