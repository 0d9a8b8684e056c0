"""Admission control of a TCP server: limits on connections and request bodies. No I/O.

There is a limit for all clients together, and a lower one for each client address, so that one
client cannot lock the others out. At a limit, a new connection replaces one from which the server
waits for the next byte, beginning with the address that has most of these. Requests that the server
is working on are never cut off.

A connection is in one of the phases of `ConnectionPhase`:

| From              | To        | When                                                             |
|-------------------|-----------|------------------------------------------------------------------|
| NEW               | WAITING   | it was admitted                                                  |
| WAITING           | WORKING   | the head of a request has arrived whole                          |
| WORKING           | RECEIVING | what has arrived ends within a body, or within a WebSocket frame |
| RECEIVING         | WORKING   | the rest of that body or frame has arrived                       |
| RECEIVING         | WAITING   | the body has arrived, and its answer was sent before             |
| WORKING           | WAITING   | the last answer was sent                                         |
| any phase         | LEAVING   | it was refused, or it is closed                                  |

A connection may be replaced while it is WAITING or, if none is, while it is RECEIVING. Idle and
header limits apply while WAITING, body limits while RECEIVING.
"""

import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from contracts.settings import MIB, Settings
from tidelens.server.address_counts import MembersByAddress
from tidelens.server.error_answers import Refusal
from tidelens.server.transfer_pace import TransferRate

# Refused connections that stay open until their clients have read why; others are cut off at once.
LEAVING_MAX = 64
# Bodies up to this size are not counted, so that small requests pass while large ones use up the
# limit.
UNCOUNTED_BYTES = 16 * 1024
# Connections of one address that new ones of that address may replace between two checks, which are
# half a second apart.
_REPLACED_MAX = 16
# A body that is below its minimum rate for this long may be refused in favour of one that is not.
_BEHIND_S = 2.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of one server; sizes are in bytes, times in seconds.

    The defaults are those of the settings, but for `idle_timeout_s`, which is not a setting.
    """

    connections_max: int = 4096
    per_address_max: int = 512
    bodies_bytes_max: int = 256 * MIB
    bodies_per_address_bytes_max: int = 128 * MIB
    header_timeout_s: float = 10.0
    body_timeout_s: float = 15.0
    send_timeout_s: float = 10.0
    # Longer than clients and proxies keep an idle connection (httpx 5 s, Amazon's load balancers
    # 60 s), so that they close it first: at uvicorn's 5 s the server closed connections on which a
    # request was just being sent.
    idle_timeout_s: float = 75.0
    bytes_per_s_min: int = 8192

    @property
    def next_bytes(self) -> str:
        """The bytes that must arrive in each window of a body, as text for an error."""
        return f"the next {self.body_timeout_s * self.bytes_per_s_min:.0f} bytes"

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        """Read the limits from the settings; one body of TIDELENS_BODY_BYTES_MAX always fits."""
        largest = settings.body_bytes_max + UNCOUNTED_BYTES
        return cls(
            connections_max=settings.http_connections_max,
            per_address_max=settings.http_connections_per_address_max,
            bodies_bytes_max=max(largest, settings.bodies_mb_max * MIB),
            bodies_per_address_bytes_max=max(largest, settings.bodies_per_address_mb_max * MIB),
            header_timeout_s=settings.header_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            send_timeout_s=settings.send_timeout_s,
            bytes_per_s_min=settings.client_bytes_per_s_min,
        )


class ConnectionPhase(enum.Enum):
    """The state of a connection; the module's docstring has the table of transitions."""

    NEW = "it is not admitted yet"
    WAITING = "no request is in progress, or its head has not arrived whole"
    RECEIVING = "the rest of a body or of a frame has still to arrive"
    WORKING = "the server has to take the next step, or a live connection is open"
    LEAVING = "it was refused, and its client may read why"


class LimitedProtocol(Protocol):
    """The asyncio protocol of a connection, as far as the limiter uses it."""

    def refuse(self, refusal: Refusal) -> None:
        """Send the refusal if that is still possible, and close the connection."""

    def check(self, now: float) -> None:
        """Close the connection if something has taken too long at time `now`, in seconds."""


class _ClosedProtocol:
    """The protocol of a closed connection, which breaks the reference cycle of the two.

    Cycles stay in memory until a full garbage collection, which is rare here: a few kilobytes for
    each closed connection.
    """

    def refuse(self, refusal: Refusal) -> None: ...

    def check(self, now: float) -> None: ...


@dataclass(eq=False, slots=True)
class ClientConnection:
    """One connection, as the limiter knows it."""

    address: str
    protocol: LimitedProtocol
    pace: TransferRate
    phase: ConnectionPhase = ConnectionPhase.NEW
    # Time at which the phase began.
    since: float = 0.0
    # Bytes of its request bodies that count against the limits.
    body_bytes: int = 0

    @property
    def is_leaving(self) -> bool:
        return self.phase is ConnectionPhase.LEAVING


@dataclass(slots=True)
class _BodyBytes:
    total: int = 0
    by_address: Counter[str] = field(default_factory=Counter)

    def change(self, address: str, by: int) -> None:
        self.total += by
        self.by_address[address] += by
        if not self.by_address[address]:
            del self.by_address[address]


class ConnectionLimiter:
    """Admits the connections of one listening server, and refuses what exceeds its limits.

    `now` is a monotonic clock in seconds.
    """

    def __init__(
        self, limits: ConnectionLimits | None = None, *, now: Callable[[], float] = monotonic
    ) -> None:
        self.limits = limits or ConnectionLimits()
        self.now = now
        self._by_address: MembersByAddress[ClientConnection] = MembersByAddress()
        self._admitted: dict[ClientConnection, None] = {}
        self._waiting: MembersByAddress[ClientConnection] = MembersByAddress()
        self._receiving: MembersByAddress[ClientConnection] = MembersByAddress()
        self._leaving: dict[ClientConnection, None] = {}
        self._body_bytes = _BodyBytes()
        # Connections that were replaced by new ones of the same address since the last check.
        self._replaced: Counter[str] = Counter()
        # Number of refusals by the setting that was exceeded.
        self.refused: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """The number of admitted connections."""
        return len(self._admitted)

    @property
    def body_bytes(self) -> int:
        """The bytes of all request bodies that count against the limits."""
        return self._body_bytes.total

    def new_connection(self, address: str, protocol: LimitedProtocol) -> ClientConnection:
        """Return the record of a connection that is not admitted yet."""
        limits = self.limits
        return ClientConnection(
            address, protocol, TransferRate(limits.body_timeout_s, limits.bytes_per_s_min)
        )

    def room_for(self, address: str) -> Refusal | None:
        """Make room for one more connection, at a limit by closing one that waits.

        Returns why there is no room, or None if there is.
        """
        limits = self.limits
        if self._by_address.count(address) >= limits.per_address_max:
            refusal = self._too_many("http_connections_per_address_max", limits.per_address_max)
            return None if self._make_room(address, address, refusal) else refusal
        if len(self._admitted) >= limits.connections_max:
            refusal = self._too_many("http_connections_max", limits.connections_max)
            return None if self._make_room(address, None, refusal) else refusal
        return None

    def enter(self, connection: ClientConnection) -> None:
        """Admit a connection, after `room_for` made room."""
        self._admitted[connection] = None
        self._by_address.add(connection.address, connection)
        self.set_phase(connection, ConnectionPhase.WAITING)

    def leave(self, connection: ClientConnection) -> None:
        """Stop counting a connection that is closed or about to be."""
        self.set_phase(connection, ConnectionPhase.LEAVING)
        self._count(connection, 0)
        self._admitted.pop(connection, None)
        self._leaving.pop(connection, None)
        self._by_address.discard(connection.address, connection)

    def forget(self, connection: ClientConnection) -> None:
        """Remove a connection that is closed, and its protocol with it."""
        self.leave(connection)
        connection.protocol = _ClosedProtocol()

    def let_linger(self, connection: ClientConnection) -> bool:
        """Stop counting a connection; return whether it may stay until its refusal was read."""
        self.leave(connection)
        if len(self._leaving) >= LEAVING_MAX:
            return False
        self._leaving[connection] = None
        return True

    def set_phase(self, connection: ClientConnection, phase: ConnectionPhase) -> None:
        """Record the phase of a connection; this runs at least twice for each request."""
        before = connection.phase
        if before is phase:
            return
        if before is ConnectionPhase.WAITING:
            self._waiting.discard(connection.address, connection)
        elif before is ConnectionPhase.RECEIVING:
            self._receiving.discard(connection.address, connection)
        connection.phase = phase
        if phase is ConnectionPhase.WAITING:
            self._waiting.add(connection.address, connection)
            connection.since = self.now()
        elif phase is ConnectionPhase.RECEIVING:
            self._receiving.add(connection.address, connection)
            connection.pace.start(self.now())

    def count_body_bytes(self, connection: ClientConnection, size: int) -> None:
        """Count `size` bytes of requests as in memory, and refuse the bodies beyond a limit."""
        if connection.is_leaving or (size <= UNCOUNTED_BYTES and not connection.body_bytes):
            return
        limits = self.limits
        self._count(connection, max(0, size - UNCOUNTED_BYTES))
        limit = limits.bodies_per_address_bytes_max
        while self._body_bytes.by_address[connection.address] > limit and not connection.is_leaving:
            refusal = self._refusal("bodies_per_address_mb_max", limit // MIB, "MiB of bodies")
            self._refuse(self._behind(connection.address) or connection, refusal)
        limit = limits.bodies_bytes_max
        while self._body_bytes.total > limit and not connection.is_leaving:
            refusal = self._refusal("bodies_mb_max", limit // MIB, "MiB of bodies")
            self._refuse(self._largest_body(connection), refusal)

    def check(self) -> None:
        """Apply the time limits to every connection."""
        now = self.now()
        self._replaced.clear()
        for connection in (*self._admitted, *self._leaving):
            connection.protocol.check(now)

    def _count(self, connection: ClientConnection, body_bytes: int) -> None:
        if body_bytes != connection.body_bytes:
            self._body_bytes.change(connection.address, body_bytes - connection.body_bytes)
            connection.body_bytes = body_bytes

    def _make_room(self, newcomer: str, address: str | None, refusal: Refusal) -> bool:
        """Close the connection that waits longest, and return whether there was one.

        With an `address`, one of that address is closed, otherwise one of the address with most of
        them. An address may replace its own connections only a few times between two checks. So a
        client that opens thousands of connections a second is refused cheaply, while another client
        behind the same proxy can still connect.
        """
        for waiting in (self._waiting, self._receiving):
            chosen = address if address is not None else waiting.largest_address()
            connection = None if chosen is None else next(iter(waiting.of(chosen)), None)
            if connection is not None:
                if connection.address == newcomer:
                    self._replaced[newcomer] += 1
                    if self._replaced[newcomer] > _REPLACED_MAX:
                        return False
                self._refuse(connection, refusal)
                return True
        return False

    def _largest_body(self, newcomer: ClientConnection) -> ClientConnection:
        """Return a connection of the address with most body bytes: a slow one, or the newest."""
        address = max(self._body_bytes.by_address, key=self._body_bytes.by_address.__getitem__)
        if address == newcomer.address:
            return self._behind(address) or newcomer
        receiving = [one for one in self._receiving.of(address) if one.body_bytes]
        return self._behind(address) or (receiving[-1] if receiving else newcomer)

    def _behind(self, address: str) -> ClientConnection | None:
        now = self.now()
        for connection in self._receiving.of(address):
            if connection.body_bytes and connection.pace.behind(now, _BEHIND_S):
                return connection
        return None

    def _refuse(self, connection: ClientConnection, refusal: Refusal) -> None:
        connection.protocol.refuse(refusal)
        # It no longer counts, even if the refusal could not be sent.
        if not connection.is_leaving:
            self.leave(connection)

    def _too_many(self, name: str, limit: int) -> Refusal:
        return self._refusal(name, limit, "connections")

    def _refusal(self, name: str, limit: int, what: str) -> Refusal:
        self.refused[name] += 1
        whom = "of one client address" if "per_address" in name else "of all clients"
        return Refusal(
            503, "too_many", f"{name}: limit {limit} {what} {whom}; try later", name, limit
        )
