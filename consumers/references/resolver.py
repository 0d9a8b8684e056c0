"""The resolver of host names, which gives the connector checked addresses only."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import structlog
from aiohttp.abc import AbstractResolver, ResolveResult

from consumers.references.addresses import literal, refusal
from consumers.references.errors import reference_refused
from contracts.errors import RejectedRecord

log = structlog.get_logger(__name__)

Lookup = Callable[[str, int, int], Awaitable[list[tuple[int, str]]]]
"""A lookup takes host, port and family, returns pairs of family and address, and raises OSError."""


class ResolverBusy(OSError):
    """All threads are busy with other names. It is not a fault of the host: no lookup began."""


class SystemLookup:
    """The system's resolver, in threads of its own while it is entered.

    A stranger's name server may hold a thread for as long as the system waits, so asyncio's own
    threads, which have other work, are not used. A caller that stops waiting does not free its
    thread. So all callers for one name share one thread, and no lookup waits for a free thread:
    that wait would count against its own host.
    """

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._threads = ThreadPoolExecutor(threads_max, "resolve")
        self._running: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}

    async def __call__(self, host: str, port: int, family: int) -> list[tuple[int, str]]:
        name = (host.lower(), family)
        running = self._running.get(name) or self._start(name)
        # A caller that is cancelled here leaves the lookup to the others.
        await asyncio.wait([running])
        return [(family, str(where[0])) for family, _, _, _, where in running.result()]

    def _start(self, name: tuple[str, int]) -> asyncio.Future[list[Any]]:
        if len(self._running) >= self._threads_max:
            raise ResolverBusy(errno.EAGAIN, f"all {self._threads_max} lookups of names are taken")
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, _getaddrinfo, *name)
        self._running[name] = running
        running.add_done_callback(lambda _: self._running.pop(name))
        # A failure that nobody waits for must not be logged as never retrieved.
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        return running

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _getaddrinfo(host: str, family: int) -> list[Any]:
    kind, flags = socket.SOCK_STREAM, socket.AI_ADDRCONFIG
    return socket.getaddrinfo(host, None, family=family, type=kind, flags=flags)


def refusal_of(host: str, address: str, hosts_allowed: frozenset[str]) -> str | None:
    """Return why `host` may not be fetched from at `address`, or None if it may."""
    if host.lower() in hosts_allowed:
        return None
    found = literal(address)
    return "no address" if found is None else refusal(found)


def not_public(host: str, why: str) -> RejectedRecord:
    """Return the rejection of a host whose address is not public."""
    return reference_refused(
        "reference_forbidden",
        f"{host} {why}; TIDELENS_REFERENCE_HOSTS_ALLOWED does not name it",
        limit="public addresses",
        value=host,
    )


class CheckedResolver(AbstractResolver):
    """A resolver that refuses a name with any address that is not public, unless it is allowed.

    The client that named it gets the refusal, in an answer or by `wait_for`. The refusal does not
    hold the address, so that nobody can use it to ask the name server of the operator's network;
    the log does.
    """

    def __init__(self, lookup: Lookup, hosts_allowed: frozenset[str]) -> None:
        self._lookup = lookup
        self._hosts_allowed = hosts_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises RejectedRecord, and OSError as the lookup does."""
        try:
            found = await self._lookup(host, port, family)
        except UnicodeError as error:  # a label that is too long
            raise reference_refused(
                "reference_invalid", f"no host name ({error})", value=host
            ) from None
        for _, address in found:
            why = refusal_of(host, address, self._hosts_allowed)
            if why is not None:
                log.warning("a reference leads inside", host=host, address=address, why=why)
                raise not_public(host, "has an address that is not public")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=its_family,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for its_family, address in found
        ]

    async def close(self) -> None:
        """Do nothing: the resolver holds nothing open."""
