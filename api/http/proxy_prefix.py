"""Remove the path prefix of a reverse proxy, so that routes and guards see paths without it.

A proxy that strips its prefix needs nothing: the page's URLs are relative, and those in answers are
paths below the API's URL. TIDELENS_ROOT_PATH names a prefix that the proxy does not strip. An
application that mounts this one names its prefix in the scope's `root_path`. Requests without the
prefix are served as well, since probes and other nodes do not go through the proxy.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

_BARE = "tidelens.bare_prefix"


def bare_prefix(scope: Scope) -> str | None:
    """Return the removed prefix if it was the whole path, without a final slash, otherwise None."""
    found: str | None = scope.get(_BARE)
    return found


class RootPathMiddleware:
    """ASGI middleware that removes the prefix before anything else reads the path."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            for prefix in (scope.get("root_path", ""), self._root_path):
                scope = _without(scope, prefix)
        await self._app(scope, receive, send)


def _without(scope: Scope, prefix: str) -> Scope:
    path = scope["path"]
    if not prefix or not (path == prefix or path.startswith(f"{prefix}/")):
        return scope
    raw, start = scope.get("raw_path"), prefix.encode()
    rest = raw[len(start) :] if raw is not None and raw.startswith(start) else raw
    bare = {_BARE: prefix} if path == prefix else {}
    return {
        **scope,
        "path": path[len(prefix) :] or "/",
        "raw_path": rest or b"/",
        "root_path": "",
        **bare,
    }
