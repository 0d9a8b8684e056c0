"""WebSocket clients that hold live subscriptions and treat them as clients do.

They come and go, on either replica; some lose their cursors, some read slowly, some stop reading
until the server gives them up.
"""

import asyncio
import contextlib
import random
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.faults.live_roles import Replica
from tests.oracles.live_followers import Follower, Message
from tests.oracles.live_lists import Violation

_TOO_SLOW = 1013
_STOPS = 1012
# Uvicorn's own, with 1011, after 20 seconds.
_NO_PONG = "keepalive ping timeout"
_LOOK_S = 0.1
# Before it is asked again who refused.
_AGAIN_S = 0.5


@dataclass(frozen=True)
class Temper:
    """The habits of a client: the seconds between its actions, on average."""

    stays_s: float = 10.0
    changes_s: float = 4.0
    reads_every_s: float = 0.0
    stops_reading_s: float = 0.0


STEADY = Temper(stays_s=40.0, changes_s=15.0)
RESTLESS = Temper(stays_s=4.0, changes_s=2.0)
SLOW = Temper(stays_s=20.0, reads_every_s=0.05)
STUCK = Temper(stays_s=60.0, changes_s=8.0, reads_every_s=0.01, stops_reading_s=12.0)


class Link:
    """One client with some followers, on one connection at a time; `run` until cancelled.

    While `calm` is set it stays, and reads all there is.
    """

    def __init__(
        self,
        followers: Sequence[Follower],
        replicas: Sequence[Replica],
        temper: Temper,
        calm: asyncio.Event,
        dice: random.Random,
        counts: Counter[str],
    ) -> None:
        self._followers = followers
        self._replicas = replicas
        self._temper = temper
        self._calm = calm
        self._dice = dice
        self._counts = counts
        self._again: dict[Follower, float] = {}

    async def run(self) -> None:
        while True:
            replica = self._dice.choice(self._replicas)
            life = replica.life
            try:
                async with self._connecting(replica) as websocket:
                    self._counts["connections"] += 1
                    await self._hold(websocket, replica)
            except ConnectionClosed as closed:
                await self._closed(closed, replica, life)
            except (OSError, InvalidHandshake, TimeoutError):
                self._counts["connections refused"] += 1
                await asyncio.sleep(_AGAIN_S)
            for follower in self._followers:
                follower.left()
            await asyncio.sleep(self._dice.choice((0.0, self._dice.uniform(0.1, 1.0))))

    def _connecting(self, replica: Replica) -> AbstractAsyncContextManager[ClientConnection]:
        if not self._temper.reads_every_s:
            return self._connect(replica)
        # Little room on the way, so that not to read is noticed.
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            plain.connect(("127.0.0.1", replica.port))
        except OSError:
            plain.close()
            raise
        plain.setblocking(False)
        return self._connect(replica, sock=plain, max_queue=1)

    def _connect(
        self, replica: Replica, **options: object
    ) -> AbstractAsyncContextManager[ClientConnection]:
        return connect(
            f"ws://127.0.0.1:{replica.port}/v1/live",
            max_size=None,
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=0.5,
            **options,
        )

    async def _hold(self, websocket: ClientConnection, replica: Replica) -> None:
        """Follow the subscriptions until the dice say to leave."""
        dice, temper = self._dice, self._temper
        now = asyncio.get_running_loop().time
        leaves_at = now() + dice.expovariate(1 / temper.stays_s)
        changes_at = now() + dice.expovariate(1 / temper.changes_s)
        self._again = dict.fromkeys(self._followers, now())
        while self._calm.is_set() or now() < leaves_at:
            for follower in [one for one, at in self._again.items() if at <= now()]:
                del self._again[follower]
                if dice.random() < 0.3:
                    # A cursor so new that this replica may have to catch up with it.
                    follower.copy_twin()
                afresh = dice.random() < 0.1
                await _send(websocket, follower.opening(replica.name, afresh=afresh))
            if now() >= changes_at:
                changes_at = now() + dice.expovariate(1 / temper.changes_s)
                await self._change(websocket)
            await self._read(websocket)
        if dice.random() < 0.5:
            websocket.transport.abort()

    async def _change(self, websocket: ClientConnection) -> None:
        """End one subscription, to open it again; or stop reading for a while."""
        dice = self._dice
        live = [follower for follower in self._followers if follower.is_live]
        if self._temper.stops_reading_s and dice.random() < 0.5 and not self._calm.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.uniform(0.5, 1.5) * self._temper.stops_reading_s):
                    await self._calm.wait()
        elif live:
            follower = dice.choice(live)
            await _send(websocket, follower.closing())
            self._open_later(follower, dice.choice((0.0, 0.0, 1.0)))

    async def _read(self, websocket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                message = orjson.loads(await websocket.recv())
        except TimeoutError:
            return
        if message["type"] == "error" and "sub" not in message:
            raise Violation(f"an error without a subscription: {message}")
        for follower in self._followers:
            if follower.is_mine(message) and not follower.take(message):
                self._open_later(follower, _AGAIN_S)
        if self._temper.reads_every_s and not self._calm.is_set():
            await asyncio.sleep(self._dice.expovariate(1 / self._temper.reads_every_s))

    def _open_later(self, follower: Follower, after_s: float) -> None:
        self._again[follower] = asyncio.get_running_loop().time() + after_s

    async def _closed(self, closed: ConnectionClosed, replica: Replica, life: int) -> None:
        """Raise unless the close is allowed: the server ended, or it disconnected a slow client.

        A server that starts while the broker is away ends by itself, and closes with 1012.
        """
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "")
        # Mostly without a code: a client that does not read does not receive the reason, either.
        given_up = code in (_TOO_SLOW, None) or reason == _NO_PONG
        if code in (None, _STOPS) and await replica.ended(life):
            self._counts["closed: the replica was killed"] += 1
        elif self._temper.reads_every_s and given_up:
            self._counts["closed: the client read too slowly"] += 1
        else:
            raise Violation(f"{replica.name} closed the connection of who read all: {closed!r}")


async def _send(websocket: ClientConnection, message: Message) -> None:
    await websocket.send(orjson.dumps(message).decode())
