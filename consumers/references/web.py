"""References to the web: `https:`, and `http:` where it is allowed.

Redirects are followed here and not by aiohttp, since each hop is checked as the first was. A URL is
parsed once, and the object that was checked is the object that is fetched.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from yarl import URL

from consumers.references.addresses import literal
from consumers.references.errors import reference_refused, reference_too_large
from consumers.references.limits import ReferenceLimits
from consumers.references.permits import HostPermits, MemoryPermit
from consumers.references.registrant import registrant
from consumers.references.resolver import (
    CheckedResolver,
    Lookup,
    ResolverBusy,
    not_public,
    refusal_of,
)
from consumers.references.retry import AttemptFailed, ReferenceRetries

SCHEMES = frozenset({"http", "https"})
_CONNECT_S = 5.0
_CHUNK_BYTES = 64 * 1024
_IDLE_MAX = 32
_REDIRECTS = {301, 302, 303, 307, 308}
_BUSY = 429
_AWAY = {errno.ENETUNREACH, errno.ENETDOWN, socket.EAI_AGAIN}


def web_session(limits: ReferenceLimits, lookup: Lookup) -> aiohttp.ClientSession:
    """Knows no proxy, cookie or password, and connects only to what the resolver checked."""
    return aiohttp.ClientSession(
        connector=_Connector(
            resolver=CheckedResolver(lookup, limits.hosts_allowed),
            use_dns_cache=False,
            # HostPermits limits them; here a wait would count as a slow host.
            limit=0,
        ),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=min(_CONNECT_S, limits.timeout_s), sock_read=limits.timeout_s
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "tidelens"},
    )


class _Connector(aiohttp.TCPConnector):
    """Aiohttp limits the connections in use, not those kept for later: here they are few."""

    # Private to aiohttp, whose version is pinned; a test counts what stays open.
    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        idle = sum(map(len, self._conns.values()))
        super()._release(key, protocol, should_close=should_close or idle >= _IDLE_MAX)


class WebReader:
    """Attempts to read from the web."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        limits: ReferenceLimits,
        hosts: HostPermits,
        retrying: ReferenceRetries,
    ) -> None:
        self._session = session
        self._limits = limits
        self._hosts = hosts
        self._retries = retrying

    async def read(self, ref: str, permit: MemoryPermit) -> bytes:
        """The picture, whose permit is taken. Raises RejectedRecord."""
        url = self.require_allowed_url(ref)

        async def attempt() -> bytes:
            with permit.released_on_failure():
                return await self._attempt(url, permit)

        return await self._retries.read_with_retries(attempt)

    async def _attempt(self, url: URL, permit: MemoryPermit) -> bytes:
        """One way through the redirects. Raises RejectedRecord, Failed."""
        loop, seconds = asyncio.get_running_loop(), self._limits.timeout_s
        for _ in range(self._limits.redirects_max + 1):
            host = url.raw_host or ""
            owner = registrant(host, self._limits.hosts_allowed)
            async with self._hosts.permit(owner, permit.group):
                # Here: it may have been given up while this one waited at its door.
                self._retries.require_not_given_up(host)
                await permit.acquire()
                started = loop.time()
                had_time = 2 * seconds >= self._limits.timeout_s
                with self._retries.attempt_at(host, had_time=had_time), _translated(host):
                    async with asyncio.timeout(seconds):
                        found = await self._hop(url)
            if isinstance(found, bytes):
                return found
            permit.release()
            seconds = max(0.0, seconds - (loop.time() - started))
            url = self.require_allowed_url(found, url)
        limit = self._limits.redirects_max
        why = f"limit {limit} redirects, got more"
        raise reference_refused("reference_too_many_redirects", why, limit=limit, value=limit + 1)

    async def _hop(self, url: URL) -> bytes | str:
        """The picture, or the place that the server names instead."""
        async with self._session.get(url, allow_redirects=False) as response:
            try:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return response.headers["Location"]
                _require_picture(url.raw_host or "", response)
                return await self._body(response)
            finally:
                # What was not read to its end is not read on for the sake of the connection.
                if not response.content.at_eof():
                    response.close()

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        size, bytes_max = response.content_length, self._limits.bytes_max
        if size is not None and size > bytes_max:
            raise reference_too_large(bytes_max, size)
        data = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            data += chunk
            if len(data) > bytes_max:
                raise reference_too_large(bytes_max)
        return bytes(data)

    def require_allowed_url(self, ref: str, base: URL | None = None) -> URL:
        """`ref` parsed, as seen from `base`, when it may be asked for. Raises RejectedRecord.

        Of a name nothing is known yet: its addresses are looked at by the resolver.
        """
        try:
            url = URL(ref) if base is None else base.join(URL(ref))
            host, name, port = url.host, url.raw_host, url.port
        except (ValueError, TypeError) as error:
            raise reference_refused(
                "reference_invalid", f"not a URL ({error})", value=ref
            ) from None
        if url.scheme not in SCHEMES & self._limits.schemes:
            code = "not_enabled" if base is None else "reference_forbidden"
            allowed = sorted(SCHEMES & self._limits.schemes)
            why = f"scheme {url.scheme!r}, allowed {allowed} (TIDELENS_REFERENCE_SCHEMES)"
            raise reference_refused(code, why, limit=allowed, value=url.scheme)
        if not host or not name:
            raise reference_refused("reference_invalid", "no host", value=ref)
        if url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority:
            raise reference_refused(
                "reference_forbidden", "user and password are not sent", value=name
            )
        if port not in self._limits.ports:
            ports = sorted(self._limits.ports)
            why = f"port {port} of {name}, allowed {ports} (TIDELENS_REFERENCE_PORTS)"
            raise reference_refused("reference_forbidden", why, limit=ports, value=port)
        # An address in place of a name never comes to the resolver.
        if literal(host) is not None:
            barred = refusal_of(name, host, self._limits.hosts_allowed)
            if barred is not None:
                raise not_public(name, f"is {barred}")
        return url


def _require_picture(host: str, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == _BUSY or status >= 500:
        raise AttemptFailed(host, f"answered {status}", asked_s=_asked_s(response))
    if status != 200:
        why = f"{host} answered {status}, expected 200"
        raise reference_refused("reference_missing", why, limit=200, value=status)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        why = f"Content-Encoding {encoding!r} of {host}, expected identity"
        raise reference_refused("reference_invalid", why, limit="identity", value=encoding)


def _asked_s(response: aiohttp.ClientResponse) -> float:
    """Retry-After where it is in seconds; its dates are not read."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _reason(error: aiohttp.ClientError | OSError) -> str:
    # Its own words name the addresses that were tried, which is for nobody to know who only asks.
    if type(error) is aiohttp.ClientConnectorError:
        return os.strerror(error.errno) if error.errno else "no connection"
    # The errors of aiohttp that are none of the system's quote what came: the same.
    return (isinstance(error, OSError) and str(error)) or type(error).__name__


@contextmanager
def _translated(host: str) -> Iterator[None]:
    """What asyncio and aiohttp raise as our own."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        if isinstance(error, aiohttp.InvalidURL):
            raise reference_refused(
                "reference_invalid", f"not a URL ({error})", value=host
            ) from None
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        away = isinstance(cause, OSError) and cause.errno in _AWAY
        raise AttemptFailed(
            host,
            _reason(error),
            away=away,
            crowded=isinstance(cause, ResolverBusy),
            timed_out=isinstance(cause, TimeoutError),
        ) from error
    except ValueError as error:  # a host that TLS or the resolver cannot take
        raise reference_refused("reference_invalid", f"not a URL ({error})", value=host) from None
