"""The page at `/` with its static files, and the schemas of the API."""

import asyncio
import mimetypes
from functools import cache
from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.item_path import match_whole_path
from api.http.proxy_prefix import bare_prefix
from contracts.errors import RejectedRequest
from contracts.schemas import build

_STATIC = Path(__file__).parents[1] / "static"
_BUILT = (_STATIC / "index.html").is_file()
# Nothing is loaded from other hosts, and inline scripts, inline styles and frames are forbidden.
# Pictures may also come from memory, to show a dropped file before it is published.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
# This reads the system's tables of MIME types now, so that no request does.
mimetypes.init()
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class HardenHeaders:
    """ASGI middleware that adds security headers, unless the response has set them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                present = {name for name, _ in headers}
                headers += [header for header in _HEADERS if header[0] not in present]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, hardened if scope["type"] == "http" else send)


def routes() -> list[BaseRoute]:
    """Return the routes of the page, its static files and the schemas."""
    return [
        match_whole_path(Route("/", _page if _BUILT else _no_page)),
        Mount("/static", StaticFiles(directory=_STATIC, check_dir=False)),
        match_whole_path(Route("/openapi.json", _openapi)),
        match_whole_path(Route("/asyncapi.json", _asyncapi)),
    ]


async def _page(request: Request) -> Response:
    if (prefix := bare_prefix(request.scope)) is not None:
        # Without the slash, relative URLs of the page would leave out the prefix.
        return RedirectResponse(f"{prefix}/", 308)
    return FileResponse(_STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _no_page(_: Request) -> Response:
    raise RejectedRequest("no_page", "this build has no page", status=404)


async def _openapi(_: Request) -> Response:
    return await _document("openapi")


async def _asyncapi(_: Request) -> Response:
    return await _document("asyncapi")


async def _document(name: str) -> Response:
    # In a thread, since the first call builds the documents from all types.
    return Response(await asyncio.to_thread(_dumped, name), media_type="application/json")


@cache
def _dumped(name: str) -> bytes:
    return orjson.dumps(build.schema_documents()[name])
