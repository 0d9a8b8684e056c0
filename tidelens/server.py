"""The HTTP and WebSocket server: uvicorn under our own signals, behind our own door."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from contracts.errors import PortInUse
from tidelens.accepting import BACKLOG, Acceptor
from tidelens.door import Door
from tidelens.http_protocol import HttpProtocol
from tidelens.live_protocol import LiveProtocol

_DRAIN_S = 5


class Server(uvicorn.Server):
    """uvicorn that leaves the signals to tidelens/signals.py, and who comes in to the door."""

    def __init__(self, config: uvicorn.Config, door: Door | None = None) -> None:
        super().__init__(config)
        self._door = door

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        door = self._door
        if door is None:
            await super().startup(sockets)
            return
        make = functools.partial(
            HttpProtocol, door, config=self.config, server_state=self.server_state, app_state={}
        )
        acceptors: list[Any] = [Acceptor(listener, door, make) for listener in sockets or ()]
        self.servers = acceptors
        self.started = True


def listen(host: str, port: int, *, option: str = "--port") -> socket.socket:
    """A listening socket, taken before anything slow starts. Raises PortInUse.

    `option` is where the port comes from.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: asyncio sets TCP_NODELAY only on sockets that have it, and without that
    # every answer waits for a delayed acknowledgement (47.6 ms against 1.3 ms for /healthz).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another {option} or --host"
        ) from None
    return listener


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    frame_bytes_max: int,
    door: Door | None = None,
    check_every_s: float = 0.5,
) -> None:
    """Serve until cancelled, then let open requests end within a deadline."""
    door = door or Door()
    # uvicorn asks for a class, but only calls it.
    live: Any = functools.partial(LiveProtocol, door)
    server = Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws=live,
            ws_max_size=frame_bytes_max,
            ws_per_message_deflate=False,
            proxy_headers=False,  # nothing of ours asks for a client's address or scheme
            timeout_graceful_shutdown=_DRAIN_S,
            server_header=False,
        ),
        door,
    )
    checking = asyncio.create_task(_check(door, check_every_s))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        done, _ = await asyncio.wait([serving, checking], return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.result()
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
        checking.cancel()


async def _check(door: Door, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        door.check()
