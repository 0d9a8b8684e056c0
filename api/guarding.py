"""Keeps foreign web pages out: Host and Origin are checked before anything else sees a request.

A page on another site can make a browser send us requests, and by DNS rebinding even under our own
origin. So the Host must be a name that we are known by, and whatever opens a WebSocket or writes
must come from a page of ours, or from no page at all (then there is no Origin).
"""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem

_READS = ("GET", "HEAD", "OPTIONS")
_POLICY_VIOLATION = 1008


class Guard:
    """ASGI middleware. `hosts_allowed`: names beside loopback and the host that we listen on."""

    def __init__(self, app: ASGIApp, *, host: str, hosts_allowed: Sequence[str]) -> None:
        self._app = app
        self._foreign_pages = {name.lower() for name in hosts_allowed}
        self._names = {"localhost", host.lower(), *self._foreign_pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closed before it is accepted: the client sees the handshake refused with 403.
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
        else:
            code, message, field = refusal
            members = {"code": code, "message": message, "field": field}
            await problem(403, members)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[str, str, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(_hostname(f"//{host}")):
            return "host_not_allowed", f"Host: {host!r} is no name of this server", "Host"
        if scope["type"] == "http" and scope["method"] in _READS:
            return None
        origin = headers.get("origin")
        if origin is None or self._may_come_from(origin, host):
            return None
        return "origin_not_allowed", f"Origin: {origin!r} is a foreign page", "Origin"

    def _is_ours(self, name: str | None) -> bool:
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _may_come_from(self, origin: str, host: str) -> bool:
        # Another port on this machine is another program: loopback alone is not enough here.
        try:
            same = urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False
        return same or _hostname(origin) in self._foreign_pages


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
