"""Refuse requests of foreign web pages, by their Host, Origin and Sec-Fetch-Site headers.

A page on another site can make a browser send requests to this server, and by DNS rebinding even
under the server's own origin. So the Host must be a name of this server, and requests of pages must
come from pages of this server. A foreign page could not read the answers, but its requests are not
free: an event stream occupies a connection until it ends. Only a link that a person follows may
lead here from any page. Programs send neither Origin nor Sec-Fetch-Site.

Orchestrators and Prometheus address a pod by an IP address or a service name that is not in the
settings. So programs may request /healthz, /readyz and /metrics under any Host. Under an unknown
Host they, and a page that uses DNS rebinding, learn only a state and the metrics.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import problem

_POLICY_VIOLATION = 1008
_AUTHORITY = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|([^][@:/?#\\\s]+))(?::([0-9]{1,5}))?", re.ASCII | re.I
)
_PORT_MAX = 65535
# `same-site` is a page on another port of this host or on a sibling host: another program.
_FOREIGN = ("cross-site", "same-site")
# These paths are streams and not pages, so that links to them are refused, too.
_NO_PAGE = ("/v1/live",)
# These paths may be requested under any Host; this member of the scope marks an unknown Host.
_OPEN = ("/healthz", "/readyz", "/metrics")
_UNKNOWN_HOST = "tidelens.stranger"


def has_unknown_host(scope: Scope) -> bool:
    """Return whether the Host of an accepted request is not a name of this server."""
    return scope.get(_UNKNOWN_HOST) is True


def visible_readiness(scope: Scope, readiness: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the readiness, without its details for a request with an unknown Host."""
    return {"ready": readiness["ready"]} if has_unknown_host(scope) else readiness


class HostGuard:
    """ASGI middleware that refuses requests of foreign pages.

    `host` is the address that the server listens on. `hosts_allowed` are its names beside that and
    loopback.
    """

    def __init__(self, app: ASGIApp, *, host: str, hosts_allowed: Sequence[str]) -> None:
        self._app = app
        self._foreign_pages = {name.lower() for name in hosts_allowed}
        self._names = {"localhost", host.lower(), *self._foreign_pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._is_probe(scope):
            await self._app({**scope, _UNKNOWN_HOST: True}, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closing before accepting refuses the handshake with 403.
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
        else:
            code, message, field = refusal
            members = {"code": code, "message": message, "field": field}
            await problem(403, members)(scope, receive, send)

    def _is_probe(self, scope: Scope) -> bool:
        """Return whether a program requests an open path under an unknown Host."""
        if scope["type"] != "http" or scope["path"] not in _OPEN:
            return False
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        return (
            scope["method"] in ("GET", "HEAD")
            and len(hosts) <= 1
            and not self._is_own_name(_hostname(hosts[0] if hosts else ""))
            and "origin" not in headers
            and "sec-fetch-site" not in headers
        )

    def _refusal(self, scope: Scope) -> tuple[str, str, str] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_own_name(_hostname(host)):
            return (
                "host_not_allowed",
                f"Host: {', '.join(hosts)!r} is not a name of this server",
                "Host",
            )
        origin = headers.get("origin")
        if origin is not None:
            if self._may_come_from(origin, host):
                return None
            return "origin_not_allowed", f"Origin: {origin!r} is a foreign page", "Origin"
        # Browsers do not send an Origin when a page loads a picture or a script.
        site = headers.get("sec-fetch-site", "").lower()
        if site in _FOREIGN and not _is_followed_link(scope, headers):
            return (
                "origin_not_allowed",
                f"Sec-Fetch-Site: {site} is a foreign page",
                "Sec-Fetch-Site",
            )
        return None

    def _is_own_name(self, name: str | None) -> bool:
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _may_come_from(self, origin: str, host: str) -> bool:
        # Another port on this machine is another program, so loopback alone is not enough here.
        try:
            page = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return page == host.lower() or _hostname(page) in self._foreign_pages


def _hostname(authority: str) -> str | None:
    """Return the host name of a Host header or an origin, or None if it is malformed."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or not 0 < int(found[3] or _PORT_MAX) <= _PORT_MAX:
        return None
    return (found[1] or found[2]).lower()


def _is_followed_link(scope: Scope, headers: Headers) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
        and scope["path"] not in _NO_PAGE
    )
