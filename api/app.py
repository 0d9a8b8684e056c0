"""The ASGI application: every path of the API, with its guards and its handling of errors.

The application does not use ASGI's lifespan. `background` returns the tasks that must run beside
it; the process that serves it starts and supervises them.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from api.endpoints import pages
from api.endpoints.admin import AdminEndpoints
from api.endpoints.classify import ClassifyEndpoint
from api.endpoints.health import HealthEndpoints
from api.endpoints.items import ItemEndpoints
from api.endpoints.pictures import PictureEndpoint
from api.endpoints.search import SearchEndpoint
from api.http.answers import ResponseWriter
from api.http.bodies import BodyReader
from api.http.guard import HostGuard
from api.http.item_path import match_whole_path
from api.http.problems import on_error, on_failure, on_http_error
from api.http.proxy_prefix import RootPathMiddleware
from api.live.hub import LiveEndpoints
from api.live.limits import LiveLimits
from api.live.registry import SubscriptionRegistry
from api.node import Node
from api.queries.freshness import Freshness
from api.queries.wait_for import StateWaiter
from contracts.errors import TidelensError

Run = Callable[[], Coroutine[Any, Any, None]]


def create_app(
    node: Node, live_limits: LiveLimits | None = None, *, waiter: StateWaiter | None = None
) -> Starlette:
    """Return the API of one node; `waiter` is one of the same node."""
    waiting = waiter or StateWaiter(node)
    freshness = Freshness(node)
    responses, bodies = ResponseWriter(node), BodyReader(node.settings)
    searching = SearchEndpoint(node, waiting, freshness, responses, bodies)
    classifying = ClassifyEndpoint(node, responses, bodies)
    items = ItemEndpoints(node, responses, bodies)
    pictures = PictureEndpoint(node, responses)
    health = HealthEndpoints(node, freshness, responses)
    admin = AdminEndpoints(node, responses, bodies)
    live = LiveEndpoints(SubscriptionRegistry(node, waiting, responses.budget, bodies, live_limits))
    routes: list[Route | WebSocketRoute] = [
        Route("/v1/search", searching.post, methods=["POST"]),
        Route("/v1/classify", classifying.post, methods=["POST"]),
        WebSocketRoute("/v1/live", live.websocket),
        Route("/v1/live", live.events, methods=["GET"]),
        Route("/v1/items", items.post, methods=["POST"]),
        _by_method("/v1/items/{target}", GET=items.get, DELETE=items.delete),
        _by_method("/v1/items/{target}/{id:rest}", GET=items.get, DELETE=items.delete),
        Route("/v1/pictures", pictures.get, methods=["GET"]),
        Route("/v1/pictures/{id:rest}", pictures.get, methods=["GET"]),
        Route("/v1/admin/snapshot", admin.snapshot, methods=["POST"]),
        Route("/v1/admin/restore", admin.restore, methods=["POST"]),
        Route("/v1/admin/rebuild", admin.rebuild, methods=["POST"]),
        Route("/v1/admin/segments", admin.segments, methods=["GET"]),
        Route("/v1/admin/queries", admin.queries, methods=["GET"]),
        Route("/v1/admin/verify", admin.verify, methods=["POST"]),
        Route("/v1/lag", health.lag),
        Route("/v1/status", health.status),
        Route("/metrics", health.metrics),
        Route("/healthz", health.healthz),
        Route("/readyz", health.readyz),
    ]
    app = Starlette(
        routes=[*map(match_whole_path, routes), *pages.routes()],
        middleware=[
            Middleware(pages.HardenHeaders),
            Middleware(RootPathMiddleware, root_path=node.settings.root_path),
            Middleware(
                HostGuard, host=node.settings.host, hosts_allowed=node.settings.hosts_allowed
            ),
        ],
        exception_handlers={
            TidelensError: on_error,
            HTTPException: on_http_error,
            Exception: on_failure,
        },
    )
    app.state.background = {"freshness": freshness.run, "live": live.run}
    app.state.live = live
    return app


def _by_method(path: str, **handlers: Callable[[Request], Awaitable[Response]]) -> Route:
    """Return one route for all methods of a path, since `Allow` lists the methods of one route."""

    async def handle(request: Request) -> Response:
        # The server omits the body of an answer to HEAD.
        name = "GET" if request.method == "HEAD" else request.method
        return await handlers[name](request)

    return Route(path, handle, methods=list(handlers))


def background(app: Starlette) -> dict[str, Run]:
    """Return the side tasks of the app, by name; each must run, and ends only when cancelled."""
    runs: dict[str, Run] = app.state.background
    return runs


def redirect_live(app: Starlette, space: str | None) -> None:
    """Reset and close all live subscriptions, since `space` answers now; None means this app."""
    live: LiveEndpoints = app.state.live
    live.redirect_to_space(space)


def close_live(app: Starlette) -> None:
    """Close all live connections, since the server stops."""
    live: LiveEndpoints = app.state.live
    live.stop()
