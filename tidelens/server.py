"""The HTTP and WebSocket server: uvicorn under our own signals."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from contracts.errors import PortInUse

_DRAIN_S = 5
# Longer than clients and proxies keep an idle connection (httpx 5 s, Amazon's load balancers 60 s),
# so that it is they who close it: uvicorn's 5 s met requests that were just being sent.
_IDLE_S = 75


class Server(uvicorn.Server):
    """uvicorn that leaves the signals to tidelens/signals.py."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another {option} or --host"
        ) from None
    return listener


async def serve(app: ASGIApp, listener: socket.socket, *, frame_bytes_max: int) -> None:
    """Serve until cancelled, then let open requests end within a deadline."""
    server = Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=frame_bytes_max,
            ws_per_message_deflate=False,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_DRAIN_S,
            server_header=False,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
