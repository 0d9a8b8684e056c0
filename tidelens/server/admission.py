"""Decides which connections and bodies may stay, in all and by client address. No I/O.

One stranger must not be able to lock the others out. So an address has only a part of everything.
When all is taken, a newcomer takes the room of a connection from which we wait for the next byte,
beginning with the address that has most of these; what the server is working on goes on.
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

# So many clients beyond the limit are still answered with the reason; others are cut off at once.
LEAVING_MAX = 64
# Bodies up to this size are not counted, so that small requests pass whatever the large ones hold.
UNCOUNTED_BYTES = 16 * 1024
# Connections that an address may exchange for new ones between two checks, half a second apart.
_EXCHANGES_MAX = 16
# A body that is below its rate for this long makes room for one that is not.
_BEHIND_S = 2.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a door; the defaults are those of the settings."""

    connections_max: int = 4096
    per_address_max: int = 512
    bodies_bytes_max: int = 256 * MIB
    bodies_per_address_bytes_max: int = 128 * MIB
    header_timeout_s: float = 10.0
    body_timeout_s: float = 15.0
    send_timeout_s: float = 10.0
    # Longer than clients and proxies keep an idle connection (httpx 5 s, Amazon's load balancers
    # 60 s), so that it is they who close it: uvicorn's 5 s met requests that were being sent.
    idle_timeout_s: float = 75.0
    bytes_per_s_min: int = 8192

    @property
    def next_bytes(self) -> str:
        """What has to come in each window of a body, in words."""
        return f"the next {self.body_timeout_s * self.bytes_per_s_min:.0f} bytes"

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        """Read the limits; one body as large as TIDELENS_BODY_BYTES_MAX always fits."""
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
    """What a connection is in the middle of."""

    WAITING = "no request is under way, or its head has not arrived whole"
    RECEIVING = "the rest of a body or of a frame has to come"
    WORKING = "the next step is ours, or a live connection is open"
    LEAVING = "it was refused, and may read why"


class LimitedProtocol(Protocol):
    """The protocol that speaks on a connection."""

    def refuse(self, refusal: Refusal) -> None:
        """Answer with the refusal where that is possible, and close."""

    def check(self, now: float) -> None:
        """Close the connection if something has taken too long."""


class _ClosedProtocol:
    """In place of a protocol that is gone: a cycle of the two would wait for a full collection of
    garbage, which is rare here, with some kilobytes for each connection that ever was.
    """

    def refuse(self, refusal: Refusal) -> None: ...

    def check(self, now: float) -> None: ...


@dataclass(eq=False, slots=True)
class ClientConnection:
    """One connection, as the door knows it."""

    address: str
    protocol: LimitedProtocol
    pace: TransferRate
    phase: ConnectionPhase = ConnectionPhase.WORKING
    # When the phase began.
    since: float = 0.0
    # Bytes of bodies that count.
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
    """The connections of one listening server."""

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
        # By address, since the last check: connections that went for new ones of the same address.
        self._exchanged: Counter[str] = Counter()
        # How many were refused, by the setting that was exceeded.
        self.refused: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        return len(self._admitted)

    @property
    def body_bytes(self) -> int:
        return self._body_bytes.total

    def new_connection(self, address: str, protocol: LimitedProtocol) -> ClientConnection:
        limits = self.limits
        return ClientConnection(
            address, protocol, TransferRate(limits.body_timeout_s, limits.bytes_per_s_min)
        )

    def room_for(self, address: str) -> Refusal | None:
        """Make room for one more, where all is taken by closing one that waits. Return why there is
        no room, or None.
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
        """Let a connection in, after `room_for` made room."""
        self._admitted[connection] = None
        self._by_address.add(connection.address, connection)
        self.set_phase(connection, ConnectionPhase.WAITING)

    def leave(self, connection: ClientConnection) -> None:
        """Forget a connection that is gone or about to be."""
        self.set_phase(connection, ConnectionPhase.LEAVING)
        self._count(connection, 0)
        self._admitted.pop(connection, None)
        self._leaving.pop(connection, None)
        self._by_address.discard(connection.address, connection)

    def forget(self, connection: ClientConnection) -> None:
        """Its connection is gone, and its protocol with it."""
        self.leave(connection)
        connection.protocol = _ClosedProtocol()

    def let_linger(self, connection: ClientConnection) -> bool:
        """Return whether it may stay a moment to read its refusal; it counts no more as inside."""
        self.leave(connection)
        if len(self._leaving) >= LEAVING_MAX:
            return False
        self._leaving[connection] = None
        return True

    def set_phase(self, connection: ClientConnection, phase: ConnectionPhase) -> None:
        """Note the phase of a connection; called twice for each request."""
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
        """Count `size` bytes of its requests as in memory, and send away what is over a limit."""
        if connection.is_leaving or (size <= UNCOUNTED_BYTES and not connection.body_bytes):
            return
        limits = self.limits
        self._count(connection, max(0, size - UNCOUNTED_BYTES))
        limit = limits.bodies_per_address_bytes_max
        while self._body_bytes.by_address[connection.address] > limit and not connection.is_leaving:
            refusal = self._refusal("bodies_per_address_mb_max", limit // MIB, "MiB of bodies")
            self._send_away(self._behind(connection.address) or connection, refusal)
        limit = limits.bodies_bytes_max
        while self._body_bytes.total > limit and not connection.is_leaving:
            refusal = self._refusal("bodies_mb_max", limit // MIB, "MiB of bodies")
            self._send_away(self._largest_holder(connection), refusal)

    def check(self) -> None:
        """Let every connection check its time limits."""
        now = self.now()
        self._exchanged.clear()
        for connection in (*self._admitted, *self._leaving):
            connection.protocol.check(now)

    def _count(self, connection: ClientConnection, body_bytes: int) -> None:
        if body_bytes != connection.body_bytes:
            self._body_bytes.change(connection.address, body_bytes - connection.body_bytes)
            connection.body_bytes = body_bytes

    def _make_room(self, newcomer: str, address: str | None, refusal: Refusal) -> bool:
        """Close the connection that waits longest, of `address` or of the one with most of them.

        An address may exchange its own connections only now and then: one that opens thousands a
        second is turned away cheaply, while somebody behind the same proxy still gets in.
        """
        for waiting in (self._waiting, self._receiving):
            chosen = address if address is not None else waiting.fullest()
            connection = None if chosen is None else next(iter(waiting.of(chosen)), None)
            if connection is not None:
                if connection.address == newcomer:
                    self._exchanged[newcomer] += 1
                    if self._exchanged[newcomer] > _EXCHANGES_MAX:
                        return False
                self._send_away(connection, refusal)
                return True
        return False

    def _largest_holder(self, newcomer: ClientConnection) -> ClientConnection:
        """Choose a body of the address that holds most: one that is behind, or its newest."""
        address = max(self._body_bytes.by_address, key=self._body_bytes.by_address.__getitem__)
        if address == newcomer.address:
            return self._behind(address) or newcomer
        receiving = [g for g in self._receiving.of(address) if g.body_bytes]
        return self._behind(address) or (receiving[-1] if receiving else newcomer)

    def _behind(self, address: str) -> ClientConnection | None:
        now = self.now()
        for connection in self._receiving.of(address):
            if connection.body_bytes and connection.pace.behind(now, _BEHIND_S):
                return connection
        return None

    def _send_away(self, connection: ClientConnection, refusal: Refusal) -> None:
        connection.protocol.refuse(refusal)
        # From here on it does not count, even if it could not be refused.
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
