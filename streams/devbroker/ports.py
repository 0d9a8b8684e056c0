"""Ports of a child that binds them itself, reserved from the moment in which they are chosen.

A socket that is bound and does not listen keeps a port from every process that takes any free one,
and still lets a process bind it by its number with SO_REUSEADDR, as Java does. Another Tidelens
process that asks for the same number is kept out by a name in Linux's abstract namespace, which
ends with its process.
"""

import contextlib
import socket
from pathlib import Path
from typing import Self

from contracts.errors import DataDirNotWritable, PortInUse

_HOST = "127.0.0.1"


class ReservedPorts:
    """Ports on loopback that are reserved until `close`."""

    def __init__(self) -> None:
        self._sockets = contextlib.ExitStack()

    def take(self, port: int = 0) -> int | None:
        """Reserve `port`, or any free port for 0, and return it; None if somebody has it."""
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


class BrokerPorts:
    """The ports of one Kafka: for clients, for its controller and for its SASL listener."""

    def __init__(self, reserved: ReservedPorts, broker: int, controller: int, sasl: int) -> None:
        self._reserved = reserved
        self.broker = broker
        self.controller = controller
        self.sasl = sasl

    @classmethod
    def reserve(cls, data_dir: Path, port: int = 0) -> Self:
        """Reserve the ports for the Kafka of a data directory, until `close`.

        Port 0 means the port of its last start if that is free, so that clients find it again, or
        any free one otherwise. Raises DataDirNotWritable and PortInUse.
        """
        reserved = ReservedPorts()
        try:
            return cls(
                reserved, _chosen(reserved, data_dir, port), _free(reserved), _free(reserved)
            )
        except BaseException:
            reserved.close()
            raise

    def remember(self, data_dir: Path) -> None:
        """Write the broker's port down for the next start."""
        _file(data_dir).write_text(str(self.broker))

    def close(self) -> None:
        self._reserved.close()


def _chosen(reserved: ReservedPorts, data_dir: Path, port: int) -> int:
    if port:
        if reserved.take(port) is None:
            raise PortInUse(f"port {port} for Kafka is in use")
        return port
    last = _last(data_dir)
    return (reserved.take(last) if last else None) or _free(reserved)


def _last(data_dir: Path) -> int:
    try:
        return int(_file(data_dir).read_text())
    except (FileNotFoundError, ValueError):  # none, or torn by a full disk
        return 0
    except OSError as error:
        raise DataDirNotWritable(
            f"data directory {data_dir}: {error.strerror}; give another with --data"
        ) from None


def _free(reserved: ReservedPorts) -> int:
    port = reserved.take()
    if port is None:
        raise PortInUse("no port on loopback is free for Kafka")
    return port


def _file(data_dir: Path) -> Path:
    return data_dir / "kafka" / "port"
