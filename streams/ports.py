"""Ports of a child that binds them itself, held from the moment in which they are chosen.

A socket that is bound and does not listen keeps a port from everybody who takes any free one, and
lets in who binds it by its number with SO_REUSEADDR, as Java does. Another of us, who would ask for
the same number, is kept out by a name in Linux's abstract namespace, which ends with its process.
"""

import contextlib
import socket

_HOST = "127.0.0.1"


class HeldPorts:
    """Ports on loopback, held until `close`."""

    def __init__(self) -> None:
        self._sockets = contextlib.ExitStack()

    def take(self, port: int = 0) -> int | None:
        """Take `port` (0: any that is free) and return it; None where somebody has it."""
        taken = self._sockets.enter_context(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((_HOST, port))
        except OSError:
            return None
        bound: int = taken.getsockname()[1]
        name = self._sockets.enter_context(socket.socket(socket.AF_UNIX))
        try:
            name.bind(f"\0tidelens.port.{bound}")
        except OSError:
            return None
        return bound

    def close(self) -> None:
        self._sockets.close()
