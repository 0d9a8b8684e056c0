"""The server of an encoder's /metrics, /healthz and /readyz, on a thread of its own.

It has limits on connections, too: prometheus_client's server starts a thread for each connection,
without a limit, and waits for the request of each one without a time limit.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from api.http.guard import HostGuard, has_unknown_host, visible_readiness
from api.http.problems import on_failure, on_http_error
from contracts.errors import PortInUse
from contracts.metrics import Metrics
from contracts.settings import MIB, Settings
from tidelens.runtime.encoder_health import EncoderHealth
from tidelens.server.admission import ConnectionLimiter, ConnectionLimits
from tidelens.server.server import listen, serve

log = structlog.get_logger(__name__)

# A few scrapers ask every few seconds.
_CONNECTIONS_MAX = 64
_PER_ADDRESS_MAX = 32
_OPTION = "TIDELENS_ENCODE_METRICS_PORT (0: none)"


@contextlib.contextmanager
def metrics_server(
    settings: Settings, metrics: Metrics, health: EncoderHealth, descriptor: int | None = None
) -> Iterator[int]:
    """Serve metrics and health, and yield the port, or 0 if the setting turns them off.

    A second encoder on a machine, for which the default port is in use, takes a free one. Raises
    PortInUse for a port that was set. `descriptor` is that of a socket which listens already, as
    `up` passes it to its encoders.
    """
    wanted = settings.encode_metrics_port
    if wanted == 0:
        yield 0
        return
    with contextlib.closing(_listener(settings, descriptor)) as listener:
        port: int = listener.getsockname()[1]
        if port != wanted:
            log.warning("/metrics is on another port", port=port, wanted=wanted)
        limits = replace(
            ConnectionLimits.of(settings),
            connections_max=_CONNECTIONS_MAX,
            per_address_max=_PER_ADDRESS_MAX,
            bodies_bytes_max=MIB,
            bodies_per_address_bytes_max=MIB,
        )
        serving = _Serving(_app(settings, metrics, health), listener, limits)
        serving.start()
        try:
            yield port
        finally:
            serving.stop()


class _Serving:
    """A server on a thread, which answers even while the encoder's own loop is busy."""

    def __init__(self, app: ASGIApp, listener: socket.socket, limits: ConnectionLimits) -> None:
        self._app = app
        self._listener = listener
        self._limits = limits
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        serving = asyncio.create_task(
            serve(
                self._app,
                self._listener,
                frame_bytes_max=MIB,
                limiter=ConnectionLimiter(self._limits),
            )
        )
        serving.add_done_callback(_report)
        await self._stopping.wait()
        serving.cancel()
        await asyncio.wait([serving])


def _report(serving: "asyncio.Task[None]") -> None:
    """Log why the server ended, unless it was stopped; the encoder goes on without /metrics."""
    if not serving.cancelled() and (error := serving.exception()) is not None:
        log.error("/metrics is no longer served", error=repr(error))


def _listener(settings: Settings, descriptor: int | None) -> socket.socket:
    if descriptor is not None:
        return socket.socket(fileno=descriptor)
    try:
        return listen(settings.host, settings.encode_metrics_port, option=_OPTION)
    except PortInUse:
        if "encode_metrics_port" in settings.model_fields_set:
            raise
        return listen(settings.host, 0, option=_OPTION)


def _app(settings: Settings, metrics: Metrics, health: EncoderHealth) -> ASGIApp:
    async def figures(_: Request) -> Response:
        # This loop has nothing else to do, so another thread would only cost memory.
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(request: Request) -> Response:
        stalled = health.stalled()
        body = {"alive": stalled is None}
        if stalled is not None and not has_unknown_host(request.scope):
            return JSONResponse({**body, "reason": stalled}, 503)
        return JSONResponse(body, 200 if stalled is None else 503)

    async def readyz(request: Request) -> Response:
        readiness = health.readiness()
        body = visible_readiness(request.scope, readiness)
        return JSONResponse(body, 200 if readiness["ready"] else 503)

    app = Starlette(
        routes=[
            Route("/metrics", figures),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
        middleware=[
            Middleware(HostGuard, host=settings.host, hosts_allowed=settings.hosts_allowed),
        ],
        exception_handlers={HTTPException: on_http_error, Exception: on_failure},
    )
    app.router.redirect_slashes = False
    return app
