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
    """Return a session without proxy, cookies and passwords that connects to checked addresses."""
    return aiohttp.ClientSession(
        connector=_Connector(
            resolver=CheckedResolver(lookup, limits.hosts_allowed),
            use_dns_cache=False,
            # HostPermits limits them. A wait here would count as a slow host.
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
    """A connector that keeps few idle connections: aiohttp limits only those in use."""

    # This is private to aiohttp, whose version is pinned; a test counts what stays open.
    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        idle = sum(map(len, self._conns.values()))
        super()._release(key, protocol, should_close=should_close or idle >= _IDLE_MAX)


class WebReader:
    """The reader of `http:` and `https:` references."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        limits: ReferenceLimits,
        hosts: HostPermits,
        retries: ReferenceRetries,
    ) -> None:
        self._session = session
        self._limits = limits
        self._hosts = hosts
        self._retries = retries

    async def read(self, ref: str, permit: MemoryPermit) -> bytes:
        """Read a picture, and leave its permit acquired. Raises RejectedRecord."""
        url = self.require_allowed_url(ref)

        async def attempt() -> bytes:
            with permit.released_on_failure():
                return await self._attempt(url, permit)

        return await self._retries.read_with_retries(attempt)

    async def _attempt(self, url: URL, permit: MemoryPermit) -> bytes:
        """Follow the redirects to a picture once. Raises RejectedRecord and AttemptFailed."""
        loop, seconds = asyncio.get_running_loop(), self._limits.timeout_s
        for _ in range(self._limits.redirects_max + 1):
            host = url.raw_host or ""
            owner = registrant(host, self._limits.hosts_allowed)
            async with self._hosts.permit(owner, permit.group):
                # Checked here, since the host may have been given up while this read waited.
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
        """Return the picture, or the location that the server redirects to."""
        async with self._session.get(url, allow_redirects=False) as response:
            try:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return response.headers["Location"]
                _require_picture(url.raw_host or "", response)
                return await self._body(response)
            finally:
                # An answer that was not read to its end is not read on to keep the connection.
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
        """Return `ref` as a URL, relative to `base`, if it may be fetched. Raises RejectedRecord.

        The addresses of a name are not known yet: the resolver checks them.
        """
        try:
            url = URL(ref) if base is None else base.join(URL(ref))
            host, name, port = url.host, url.raw_host, url.port
        except (ValueError, TypeError) as error:
            raise reference_refused(
                "reference_invalid", f"not a URL ({error})", value=ref
            ) from None
        self._require_scheme(url.scheme, redirected=base is not None)
        if not host or not name:
            raise reference_refused("reference_invalid", "no host", value=ref)
        if url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority:
            raise reference_refused(
                "reference_forbidden", "user and password are not sent", value=name
            )
        self._require_port(name, port)
        # An address instead of a name never comes to the resolver.
        if literal(host) is not None:
            barred = refusal_of(name, host, self._limits.hosts_allowed)
            if barred is not None:
                raise not_public(name, f"is {barred}")
        return url

    def _require_scheme(self, scheme: str, *, redirected: bool) -> None:
        allowed = sorted(SCHEMES & self._limits.schemes)
        if scheme not in allowed:
            code = "reference_forbidden" if redirected else "not_enabled"
            why = f"scheme {scheme!r}, allowed {allowed} (TIDELENS_REFERENCE_SCHEMES)"
            raise reference_refused(code, why, limit=allowed, value=scheme)

    def _require_port(self, name: str, port: int | None) -> None:
        if port not in self._limits.ports:
            ports = sorted(self._limits.ports)
            why = f"port {port} of {name}, allowed {ports} (TIDELENS_REFERENCE_PORTS)"
            raise reference_refused("reference_forbidden", why, limit=ports, value=port)


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
    """Return the seconds of Retry-After, or 0 without them; dates are not read."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _reason(error: aiohttp.ClientError | OSError) -> str:
    # The error's own text names the addresses that were tried, which a client must not learn.
    if type(error) is aiohttp.ClientConnectorError:
        return os.strerror(error.errno) if error.errno else "no connection"
    # Errors of aiohttp that do not come from the system quote what the server sent: the same holds.
    return (isinstance(error, OSError) and str(error)) or type(error).__name__


@contextmanager
def _translated(host: str) -> Iterator[None]:
    """Turn the errors of asyncio and aiohttp into RejectedRecord and AttemptFailed."""
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
