"""Names to addresses, checked: what is handed to the connector is what was looked at."""

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
"""Of host, port and family: pairs of family and address. Raises OSError."""


class ResolverBusy(OSError):
    """All threads look other names up: no fault of the host, which was not even asked for."""


class SystemLookup:
    """The system's resolver, in threads of its own while it is entered.

    A stranger's name server may hold each for as long as the system waits, and those of asyncio
    decode. Who gives up waiting frees no thread, so that a name has one at most, shared by all who
    ask for it, and no lookup queues for one: that wait would be taken for its own host's.
    """

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._threads = ThreadPoolExecutor(threads_max, "resolve")
        self._running: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}

    async def __call__(self, host: str, port: int, family: int) -> list[tuple[int, str]]:
        name = (host.lower(), family)
        running = self._running.get(name) or self._start(name)
        # Whoever is cancelled here leaves it to the others.
        await asyncio.wait([running])
        return [(kind, str(where[0])) for kind, _, _, _, where in running.result()]

    def _start(self, name: tuple[str, int]) -> asyncio.Future[list[Any]]:
        if len(self._running) >= self._threads_max:
            raise ResolverBusy(errno.EAGAIN, f"all {self._threads_max} lookups of names are taken")
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, _getaddrinfo, *name)
        self._running[name] = running
        running.add_done_callback(lambda _: self._running.pop(name))
        # One that nobody waits for any more fails in silence.
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
    """What keeps us from `host` at `address`; None: nothing does."""
    if host.lower() in hosts_allowed:
        return None
    found = literal(address)
    return "no address" if found is None else refusal(found)


def not_public(host: str, why: str) -> RejectedRecord:
    return reference_refused(
        "reference_forbidden",
        f"{host} {why}; TIDELENS_REFERENCE_HOSTS_ALLOWED does not name it",
        limit="public addresses",
        value=host,
    )


class CheckedResolver(AbstractResolver):
    """Refuses a name that has any address which is not public, unless its host is allowed.

    The refusal comes to whoever named it, in an answer or by `wait_for`: it does not tell which
    address, else anybody could ask our name server for the names of our network. The log does.
    """

    def __init__(self, lookup: Lookup, hosts_allowed: frozenset[str]) -> None:
        self._lookup = lookup
        self._hosts_allowed = hosts_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
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
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in found
        ]

    async def close(self) -> None:
        """Nothing is open."""
