"""The processes that a live check kills and starts again: replicas, an encoder and the broker."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path

from contracts.errors import RejectedRequest, TidelensError
from streams.devbroker.broker import LocalBroker
from tests.kits.kafka import Collection
from tests.kits.roles import Role, free_port, of, role
from tests.oracles.live_lists import Violation
from tidelens.client import Client, ServerUnavailable

# Small, so that states are replayed, snapshots restored and slow clients given up in seconds.
_LIMITS = {
    "TIDELENS_SNAPSHOT_EVERY_S": "3",
    "TIDELENS_SEND_TIMEOUT_S": "2",
    "TIDELENS_WAIT_S_MAX": "5",
}
# A rebuild of fewer rows than an index like the one before has lists; it is tried again later.
_FEW_ROWS = "Number of training points"
# Who is starting ends where the broker is away, and is not ready sooner on a loaded machine.
_STARTING_S = 30.0


class Broker:
    """The broker, and when it was away; None stands for a broker that the check must not kill."""

    def __init__(self, broker: LocalBroker | None) -> None:
        self._broker = broker
        self.is_up = asyncio.Event()
        self.is_up.set()
        self._away: list[tuple[float, float]] = []

    async def kill(self, away_s: float) -> None:
        assert self._broker is not None
        began = time.monotonic()
        self._away.append((began, float("inf")))
        self.is_up.clear()
        await self._broker.kill()
        await asyncio.sleep(away_s)
        await self._broker.start()
        self._away[-1] = (began, time.monotonic())
        self.is_up.set()

    def was_away(self, since: float, until: float) -> bool:
        return any(began < until and ended > since for began, ended in self._away)


class Kept:
    """A role that is started again whenever it ends; `run` until cancelled."""

    def __init__(
        self, name: str, folder: Path, broker: Broker, *arguments: str, **environment: str
    ) -> None:
        self.name = name
        # Another one after each end: who was connected before is cut off.
        self.life = 0
        self.role: Role | None = None
        self._folder = folder
        self._broker = broker
        self._arguments = arguments
        self._environment = environment

    async def run(self) -> None:
        while True:
            began, life = time.monotonic(), self.life
            started = role(self._folder, *self._arguments, **self._environment)
            async with started as self.role:
                code = await self.role.process.wait()
            by_itself = life == self.life
            self.life += 1
            away = self._broker.was_away(began, began + _STARTING_S)
            self.check_log(away=away)
            if by_itself and not away:
                log = self.role.log.read_text()[-3000:]
                raise Violation(f"{self.name} ended by itself with {code}:\n{log}")
            await asyncio.sleep(0.5)

    def check_log(self, *, away: bool = False) -> None:
        """Require that no fault has caused an error of the node's own or a refused snapshot.

        While the broker is `away`, a start ends with one line that says so.
        """
        lines = [] if self.role is None else self.role.log.read_text().splitlines()
        for line in lines:
            wrong = '"level": "error"' in line or "snapshot refused" in line
            if away and '"exit_code": 2' in line:
                continue
            if wrong and _FEW_ROWS not in line:
                raise Violation(f"{self.name} says in its log: {line}")

    async def ended(self, life: int) -> bool:
        """Return whether that life is over, or ends within five seconds."""
        for _ in range(50):
            if life != self.life:
                return True
            await asyncio.sleep(0.1)
        return False

    async def pause(self, seconds: float) -> None:
        """Stop it where it stands, so that it is behind all others when it goes on."""
        if self.role is not None:
            paused = self.role
            paused.signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            paused.signal(signal.SIGCONT)

    async def kill(self) -> None:
        self.life += 1
        if self.role is not None:
            await self.role.kill()


class Replica(Kept):
    """An index node that answers, with files of its own."""

    def __init__(self, number: int, kit: Collection, folder: Path, broker: Broker) -> None:
        self.port = free_port()
        own = folder / f"replica-{number}"
        own.mkdir()
        super().__init__(
            f"replica {number}",
            own,
            broker,
            "index",
            *of(kit, "--port", str(self.port)),
            TIDELENS_REPLICA=str(number),
            TIDELENS_DATA=str(own / "data"),
            # One replica merges its rows often, the other only on request.
            TIDELENS_SCANNED_ROWS_MAX=str((40, 8192)[number % 2]),
            **_LIMITS,
        )

    async def ready(self) -> None:
        """Wait until it answers, in whichever of its lives."""
        async with Client(f"http://127.0.0.1:{self.port}") as client:
            while True:
                with contextlib.suppress(TidelensError):
                    if (await client.get("/v1/status"))["ready"]:
                        return
                await asyncio.sleep(0.05)

    async def ask(self, what: str) -> str:
        """POST /v1/admin/WHAT, and return how that ended.

        It may be starting, ending, or be killed meanwhile; `run` judges whether it may end.
        """
        life = self.life
        async with Client(f"http://127.0.0.1:{self.port}") as client:
            try:
                await client.post(f"/v1/admin/{what}")
            except ServerUnavailable:
                return "not there"
            except RejectedRequest as error:
                if error.code == "stopping" and await self.ended(life):
                    return "stopping"
                if error.code != "not_ready":
                    raise Violation(f"{self.name}: {what}: {error.code}: {error}") from error
                return "not ready"
        return "done"


def encoder(kit: Collection, folder: Path, broker: Broker) -> Kept:
    return Kept("encoder", folder, broker, "encode", *of(kit))
