"""The HTTP and WebSocket server: uvicorn with Tidelens's signals and admission control."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from contracts.errors import PortInUse
from contracts.supervision.side_tasks import SideTasks
from tidelens.server.acceptor import BACKLOG, Acceptor
from tidelens.server.admission import ConnectionLimiter
from tidelens.server.draining import DrainLimits, drain
from tidelens.server.http_protocol import HttpProtocol
from tidelens.server.websocket_protocol import LiveProtocol

log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """A uvicorn server without signal handlers, with limited connections and its own draining.

    Signals belong to tidelens/process/signals.py, the limits to tidelens/server/admission.py, and
    the end of connections to tidelens/server/draining.py.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        limiter: ConnectionLimiter,
        on_stop: Callable[[], None] = lambda: None,
        answered: asyncio.Event | None = None,
        *,
        drain_limits: DrainLimits | None = None,
    ) -> None:
        super().__init__(config)
        self._limiter = limiter
        self._on_stop = on_stop
        self._answered = answered or asyncio.Event()
        self._drain_limits = drain_limits or DrainLimits()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        limiter = self._limiter
        make = functools.partial(
            HttpProtocol, limiter, config=self.config, server_state=self.server_state, app_state={}
        )
        acceptors: list[Any] = [Acceptor(listener, limiter, make) for listener in sockets or ()]
        self.servers = acceptors
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._on_stop()
        connections: set[Any] = self.server_state.connections
        try:
            await drain(
                connections, self.server_state.tasks, self._answered.set, self._drain_limits
            )
        finally:
            for server in self.servers:
                await server.wait_closed()
            for listener in sockets or ():
                listener.close()


def listen(host: str, port: int, *, option: str = "--port") -> socket.socket:
    """Return a listening socket, which is taken before anything slow starts. Raises PortInUse.

    `option` names the option or setting of the port, for the error.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, since asyncio sets TCP_NODELAY only on sockets that name it. Without it
    # every answer waits for a delayed acknowledgement: /healthz took 47.6 ms, not 1.3 ms.
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
    limiter: ConnectionLimiter | None = None,
    check_every_s: float = 0.5,
    on_stop: Callable[[], None] = lambda: None,
    answered: asyncio.Event | None = None,
    side: SideTasks | None = None,
    drain_limits: DrainLimits | None = None,
) -> None:
    """Serve until cancelled, then let open requests end (tidelens/server/draining.py).

    `frame_bytes_max` is the largest size of a WebSocket message in bytes. `on_stop` is called when
    stopping begins, and `answered` is set once no request waits any longer. Every `check_every_s`
    seconds, `limiter` applies its time limits, as a task of `side`. `drain_limits` bounds the time
    that stopping takes.
    """
    limiter, answered = limiter or ConnectionLimiter(), answered or asyncio.Event()
    side = side or SideTasks()
    server = Server(
        _configuration(app, limiter, frame_bytes_max),
        limiter,
        on_stop,
        answered,
        drain_limits=drain_limits,
    )
    checking = asyncio.create_task(_check(limiter, check_every_s, side))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        done, _ = await asyncio.wait([serving, checking], return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.result()
    finally:
        server.should_exit = True
        # A defect in stopping must be logged, although nothing can be done about it.
        await asyncio.wait([serving])
        answered.set()
        checking.cancel()
        if serving.exception() is not None:
            log.error("connections were cut off", exc_info=serving.exception())


def _configuration(
    app: ASGIApp, limiter: ConnectionLimiter, frame_bytes_max: int
) -> uvicorn.Config:
    # uvicorn asks for a class, but only calls it.
    live: Any = functools.partial(LiveProtocol, limiter)
    return uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws=live,
        ws_max_size=frame_bytes_max,
        ws_per_message_deflate=False,
        proxy_headers=False,  # nothing here asks for a client's address or scheme
        server_header=False,
    )


async def _check(limiter: ConnectionLimiter, every_s: float, side: SideTasks) -> None:
    async def check() -> None:
        limiter.check()

    while True:
        await asyncio.sleep(every_s)
        await side.run_step("connection limits", check)
