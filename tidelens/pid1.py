"""SIGTERM from the first line of the command until a role handles it itself (tidelens/signals.py).

Process 1 of a container has no default for a signal: the kernel drops one for which there is no
handler, so that a `docker stop` half a second after the start, while the command still imports its
modules, was lost for good. Imports nothing that takes time.
"""

import os
import signal

# What a shell and Docker report of a process that died of SIGTERM.
_CODE = 128 + signal.SIGTERM


def handle_sigterm() -> None:
    """End at once on SIGTERM, as every other process does by default; nothing was begun yet."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(_CODE))
