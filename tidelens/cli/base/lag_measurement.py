"""The lag of a collection, as measured by a command, which is not one of its nodes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from consumers.models import model_space
from contracts.groups import GroupName
from contracts.ports.lag import Lag
from contracts.settings import Settings
from contracts.topics import Names
from streams.groups.members import count_members, list_groups
from streams.kafka.connection import KafkaConnection
from streams.lag.kafka_lag import KafkaLag
from streams.lag.spaces_lag import SpacesLag
from streams.registry.control_topic import Control
from tidelens.cli.base.served_space import ask_control
from tidelens.process.clock import SystemClock
from tidelens.runtime.run_file import model_of

# An encoder's transaction takes milliseconds; one that is open for this long is reported.
HELD_S = 10.0


@dataclass(frozen=True, slots=True)
class LagReport:
    """The lag that was measured. `space` is the one asked about; `rows` include spaces beside it.

    `behind_s` is None while nothing waits as far as is known, and no index node runs. `left_over`
    are groups without members whose spaces are neither served nor made.
    """

    space: str
    rows: Sequence[Lag]
    behind_s: float | None
    left_over: Sequence[str] = ()

    @property
    def indexed(self) -> bool:
        """Return whether a node of the space runs."""
        own = [row for row in self.rows if row.space == self.space and row.role == "index"]
        return any(not row.gone for row in own)

    @property
    def gone(self) -> list[str]:
        """Return the groups of index nodes that do not run."""
        return list(dict.fromkeys(row.group for row in self.rows if row.gone))

    @property
    def shared(self) -> list[tuple[str, int]]:
        """Return the groups of index nodes that several processes share, with their number."""
        found = ((r.group, r.members) for r in self.rows if r.role == "index" and r.members)
        return list(dict.fromkeys((group, members) for group, members in found if members > 1))

    @property
    def unattended(self) -> list[tuple[str, str]]:
        """Return the spaces without encoders, with the group that has no members."""
        found = ((row.space, row.group) for row in self.rows if row.unattended)
        return list(dict.fromkeys(found))

    @property
    def held_back(self) -> list[Lag]:
        """Return one row of each partition that a transaction has held back for long."""
        found = {
            (row.topic, row.partition): row for row in self.rows if row.unstable_seconds >= HELD_S
        }
        return list(found.values())


async def measure_lag(settings: Settings, connection: KafkaConnection, *, asked: bool) -> LagReport:
    """Measure the spaces that are served or being made, or only that of a model asked for.

    Raises BrokerUnavailable, and TopicMismatch where a topic of the space is absent.
    """
    spaces = await spaces_of(settings, connection, asked=asked)
    own = KafkaLag(connection, Names(settings.topic_prefix, spaces[0]), None, SystemClock())
    source = SpacesLag(own, lambda: spaces)
    await source.start()
    try:
        rows = await source.lag()
        behind_s: float | None = source.behind_s(rows)
    finally:
        await source.stop()
    left_over = [] if asked else await _left_over(connection, settings.topic_prefix, spaces)
    measured = LagReport(spaces[0], rows, behind_s, left_over)
    return measured if behind_s or measured.indexed else LagReport(spaces[0], rows, None, left_over)


async def spaces_of(settings: Settings, connection: KafkaConnection, *, asked: bool) -> list[str]:
    """Return the spaces, the active one first, or only the one asked for."""
    control = Control() if asked else await ask_control(settings, connection)
    if control.active is not None:
        return control.spaces
    model = settings.model if asked else model_of(settings)
    return [(await asyncio.to_thread(model_space, model)).name, *control.spaces]


async def _left_over(connection: KafkaConnection, prefix: str, spaces: Sequence[str]) -> list[str]:
    async with connection.client() as client:
        listed = await list_groups(client, Names(prefix, "").bare + ".")
        names = [name for group in listed if (name := GroupName.read(prefix, group)) is not None]
        # An index node has two groups: the first has its members, the last its commits.
        groups = {tuple(name.names(prefix)): None for name in names if name.space not in spaces}
        members = await count_members(client, [of[0] for of in groups]) if groups else {}
    return [of[-1] for of in groups if members.get(of[0]) == 0]
