"""Handle SIGTERM from the first line of the command until a role does (process/signals.py).

The kernel drops a signal for process 1 of a container if that has no handler. So a `docker stop`
half a second after the start, while the command still imports its modules, was lost for good. This
module imports nothing that takes time.
"""

import os
import signal

# A shell and Docker report this code for a process that died of SIGTERM.
_CODE = 128 + signal.SIGTERM


def handle_sigterm() -> None:
    """End at once on SIGTERM, as other processes do by default; nothing was begun yet."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(_CODE))
