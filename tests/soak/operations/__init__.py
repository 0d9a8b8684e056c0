"""Faults of parts of an installation: one module for each, found by its name.

A module has a docstring, whose first line is the scenario's title, and `async def run(ground)`,
which returns an Outcome or raises AssertionError.
"""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from streams.devbroker.broker import LocalBroker
from tests.kits.broker_fixture import FAST
from tests.kits.roles import Role
from tests.kits.s3_fixture import S3Server, free_port, s3mock_jar
from tests.kits.versitygw import VersityServer, versitygw


@dataclass(frozen=True, slots=True)
class Outcome:
    """The observations of one scenario.

    `reported` has a line for each report, which begins with where it stood (`readyz`, `lag`,
    `metric tidelens_...`, `log`, `doctor`, `exit code`). `healed_s` is the time in seconds from the
    end of the fault until all was as before, or None if only an operator can heal it. `lost`
    counts records, items or deltas that were published and did not arrive: the goal is 0.
    """

    reported: Sequence[str]
    healed_s: float | None
    lost: int


@dataclass
class Ground:
    """A folder, and real servers and roles that end with the scenario."""

    folder: Path
    s3_kind: str
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def broker(self, name: str = "kafka", **extra: str) -> LocalBroker:
        """Start an Apache Kafka; `extra` are broker properties, with `_` for a dot."""
        properties = {key.replace("_", "."): value for key, value in extra.items()}
        broker = LocalBroker(self.folder / name, heap_mb=256, extra={**FAST, **properties})
        self.stack.push_async_callback(broker.stop)
        await broker.start()
        return broker

    async def s3(self) -> S3Server | VersityServer:
        """Start an S3 server with no bucket in it."""
        folder = self.folder / "s3"
        folder.mkdir(exist_ok=True)
        server: S3Server | VersityServer = (
            VersityServer(folder, await versitygw(), free_port())
            if self.s3_kind == "versitygw"
            else S3Server(free_port(), folder, s3mock_jar())
        )
        self.stack.push_async_callback(server.stop)
        await server.start()
        return server

    async def role(self, name: str, *arguments: str, **environment: str) -> Role:
        """Start `tidelens NAME`, which is killed at the end of the scenario."""
        role = await Role.start(self.folder, name, *arguments, **environment)
        self.stack.push_async_callback(role.kill)
        return role


Scenario = Callable[[Ground], Awaitable[Outcome]]


def scenarios() -> dict[str, tuple[str, Scenario]]:
    """Return title and function of every scenario, by the name of its module."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        if hasattr(loaded, "run"):
            title = (loaded.__doc__ or module.name).splitlines()[0]
            found[module.name] = title, loaded.run
    return found
