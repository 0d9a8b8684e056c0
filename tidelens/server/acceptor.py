"""Accept connections, and refuse those beyond the limits before they cost much.

asyncio makes a transport, a protocol and a task for each connection before anything can refuse it,
so a client that opens thousands a second would keep the event loop busy.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable

import structlog

from tidelens.server.address_counts import address_of
from tidelens.server.admission import LEAVING_MAX, ConnectionLimiter
from tidelens.server.error_answers import STOPPING, Refusal, as_bytes
from tidelens.server.http_protocol import HttpProtocol
from tidelens.server.lingering import LINGER_S

log = structlog.get_logger(__name__)

BACKLOG = 2048
# Connections accepted in one turn of the loop; the others wait in the kernel's backlog.
_AT_ONCE = 16
_READ_BYTES = 64 * 1024
# Seconds until the next attempt when no file descriptor is left, although some are reserved.
_RETRY_S = 1.0


def refuse_waiting(listener: socket.socket) -> None:
    """Answer 503 to clients that wait to be accepted by a server that stops before it serves."""
    refusal = as_bytes(STOPPING)
    with contextlib.suppress(OSError):
        listener.setblocking(False)
        for _ in range(BACKLOG):
            client, _address = listener.accept()
            with client, contextlib.suppress(OSError):
                client.setblocking(False)
                client.send(refusal)
                # An unread request would turn the end of the answer into a reset.
                client.recv(_READ_BYTES)


class Acceptor:
    """The acceptor of one listening socket's connections; it is closed like an asyncio server."""

    def __init__(
        self,
        listener: socket.socket,
        limiter: ConnectionLimiter,
        protocol: Callable[[], HttpProtocol],
    ) -> None:
        self._listener = listener
        self._limiter = limiter
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        # Refused sockets, each with the time until which its client may read the reason.
        self._leaving: deque[tuple[float, socket.socket]] = deque()
        self._closed = False
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more connections, and refuse those that wait to be accepted."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        with contextlib.suppress(OSError):
            for _ in range(BACKLOG):
                self._refuse(self._listener.accept()[0], STOPPING)
        self._listener.close()

    async def wait_closed(self) -> None:
        """Wait until no connection is being set up, and close the refused ones."""
        if self._connecting:
            await asyncio.wait(self._connecting)
        while self._leaving:
            self._leaving.popleft()[1].close()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, (host, *_rest) = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("cannot accept connections", error=str(error), again_in_s=_RETRY_S)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_RETRY_S, self._listen)
                return
            address = address_of(host)
            refusal = self._limiter.room_for(address)
            if refusal is not None:
                self._refuse(client, refusal)
                continue
            client.setblocking(False)
            protocol = self._protocol()
            protocol.admit(address)
            task = self._loop.create_task(self._connect(protocol, client))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, protocol: HttpProtocol, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, client)
        except OSError:
            protocol.forget()
            client.close()

    def _refuse(self, client: socket.socket, refusal: Refusal) -> None:
        """Refuse a connection: a few are sent the reason, the others are closed without one."""
        if len(self._leaving) >= LEAVING_MAX:
            client.close()
            return
        with contextlib.suppress(OSError):
            client.setblocking(False)
            client.send(as_bytes(refusal))
            client.shutdown(socket.SHUT_WR)
        if not self._leaving:
            self._loop.call_later(LINGER_S, self._close_leaving)
        self._leaving.append((self._loop.time() + LINGER_S, client))

    def _close_leaving(self) -> None:
        while self._leaving and self._leaving[0][0] <= self._loop.time():
            self._leaving.popleft()[1].close()
        if self._leaving:
            self._loop.call_at(self._leaving[0][0], self._close_leaving)
