"""Live subscriptions under kill -9 of everything, each list held against the log at every cursor.

Random contents go through a real broker, a real encoder and two index nodes; clients follow many
standing queries on both; whatever can be killed is. The truth is tests/oracles/live_lists.py.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aiokafka.errors import KafkaError

from contracts.errors import BrokerUnavailable
from contracts.events.record import Positions, TopicPartition
from contracts.topics import TARGETS
from streams.devbroker.broker import LocalBroker
from tests.faults.live_roles import Broker, Replica, encoder
from tests.kits.kafka import Collection
from tests.kits.live_dice import Contents, alert, question
from tests.kits.live_links import RESTLESS, SLOW, STEADY, STUCK, Link
from tests.oracles.live_alerts import MatchesFollower
from tests.oracles.live_followers import Claim, Follower, TopFollower
from tests.oracles.live_lists import History, Violation

# The faults, each as often as it is listed here before all of them are drawn again.
ACTIONS = (
    *("kill replica",) * 5,
    *("kill encoder",) * 3,
    "kill both replicas",
    *("pause replica",) * 3,
    "pause encoder",
    "kill broker",
    "kill broker and replica",
    *("rebuild",) * 4,
    *("snapshot",) * 4,
    *("quiet",) * 3,
)
# The clients, two and two with the same questions.
PAIRS = (*((STEADY, RESTLESS),) * 3, (SLOW, RESTLESS), (SLOW, STUCK))
_FOLLOWERS_PER_LINK = 8
# A killed replica takes about five seconds to be ready again.
_PAUSE_S = (1.0, 12.0)
# Only bounds what never comes: an aborted transaction may hold the log's end for a minute.
_PATIENCE_S = 150.0


class LiveRounds:
    """One collection, followed for a while; everything random comes from `seed`.

    `counts` records what was seen and done. Without a `broker` that the check may kill, `actions`
    must not ask for one. Between two actions pass seconds within `pause_s`.
    """

    def __init__(
        self,
        kit: Collection,
        folder: Path,
        seed: int,
        *,
        broker: LocalBroker | None = None,
        actions: Sequence[str] = ACTIONS,
        pause_s: tuple[float, float] = _PAUSE_S,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._kit = kit
        self._seed = seed
        self._dice = self._dice_of("rounds")
        self._actions, self._pause_s = actions, pause_s
        self._history = History(kit.names, kit.partitions)
        self._claims: asyncio.Queue[Claim] = asyncio.Queue()
        self._calm = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._broker = Broker(broker)
        self._encoder = encoder(kit, folder, self._broker)
        self._replicas = [Replica(number, kit, folder, self._broker) for number in range(2)]
        self._followers: list[Follower] = []
        self._asked: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        """Run for `seconds`; raise an ExceptionGroup of one Violation if a promise was broken."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            running = [
                tasks.create_task(one)
                for one in (
                    self._follow_log(),
                    self._judge(),
                    self._publish(),
                    self._encoder.run(),
                    *(replica.run() for replica in self._replicas),
                )
            ]
            async with asyncio.timeout(_PATIENCE_S):
                for replica in self._replicas:
                    await replica.ready()
            running += [tasks.create_task(link.run()) for link in self._links()]
            await self._act(seconds)
            await self._quiet()
            for kept in (self._encoder, *self._replicas):
                kept.check_log()
            for task in (*running, *self._asked):
                task.cancel()

    def _links(self) -> list[Link]:
        links = []
        for number, pair in enumerate(PAIRS):
            followers: list[list[Follower]] = [[], []]
            dice = self._dice_of(f"questions {number}")
            for n in range(_FOLLOWERS_PER_LINK):
                # Every fourth wants matches.
                kind: type[Follower] = MatchesFollower if n % 4 == 3 else TopFollower
                large = STUCK in pair
                query = alert(dice) if kind is MatchesFollower else question(dice, large=large)
                one, other = (
                    kind(f"{number}{side}{n}", query, self._claims, self.counts) for side in "ab"
                )
                one.twin, other.twin = other, one
                followers[0].append(one)
                followers[1].append(other)
            for side, temper in enumerate(pair):
                dice = self._dice_of(f"link {number} {side}")
                told = (self._replicas, temper, self._calm, dice, self.counts)
                links.append(Link(followers[side], *told))
            self._followers += [*followers[0], *followers[1]]
        return links

    async def _act(self, seconds: float) -> None:
        """Do all actions in random order, with pauses between them, and then again."""
        ends_at = asyncio.get_running_loop().time() + seconds
        for number in itertools.count():
            if number % len(self._actions) == 0:
                left = self._dice.sample(self._actions, len(self._actions))
            await asyncio.sleep(self._dice.uniform(*self._pause_s))
            if asyncio.get_running_loop().time() >= ends_at:
                return
            action = left.pop()
            print(f"{action}", flush=True)
            await self._do(action)
            self.counts[f"done: {action}"] += 1

    async def _do(self, action: str) -> None:
        dice = self._dice
        replica = dice.choice(self._replicas)
        match action:
            case "kill replica":
                await replica.kill()
            case "kill both replicas":
                await asyncio.gather(*(one.kill() for one in self._replicas))
            case "kill encoder":
                await self._encoder.kill()
            case "pause replica":
                await replica.pause(dice.uniform(1, 6))
            case "pause encoder":
                await self._encoder.pause(dice.uniform(1, 6))
            case "kill broker":
                await self._broker.kill(dice.uniform(0, 6))
            case "kill broker and replica":
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._broker.kill(dice.uniform(2, 6)))
                    await asyncio.sleep(dice.uniform(0, 2))
                    await replica.kill()
            case "rebuild" | "snapshot":
                # Goes on beside what is done next.
                task = self._tasks.create_task(self._ask(replica, action))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)
            case "quiet":
                await self._quiet()
            case _:
                raise ValueError(f"no action {action!r}")

    async def _ask(self, replica: Replica, what: str) -> None:
        self.counts[f"asked: {what}: {await replica.ask(what)}"] += 1

    async def _publish(self) -> None:
        dice = self._dice_of("contents")
        contents = Contents(self._kit.names, dice)
        while True:
            await asyncio.sleep(dice.uniform(0.02, 0.3))
            await self._broker.is_up.wait()
            async with self._publishing:
                if self._calm.is_set():
                    continue
                try:
                    records = contents.burst()
                    await self._kit.log.publish(records)
                    self.counts["records published"] += len(records)
                except (KafkaError, BrokerUnavailable):
                    # Then they are in the log or not: it is the log that we compare with.
                    self.counts["publishing failed"] += 1

    async def _follow_log(self) -> None:
        while True:
            try:
                reader = await self._kit.log.tail(self._history.positions)
                try:
                    while True:
                        fetched = await reader.fetch(records_max=1000, timeout_ms=100)
                        await self._history.take(fetched)
                finally:
                    await reader.close()
            except (KafkaError, BrokerUnavailable, OSError):
                await asyncio.sleep(0.2)

    async def _judge(self) -> None:
        while True:
            claim = await self._claims.get()
            await claim.judge(self._history)
            self.counts["claims that hold"] += 1
            self._claims.task_done()

    async def _quiet(self) -> None:
        """Nothing is published, nobody goes: soon every list is that of the log's end."""
        self._calm.set()
        try:
            async with asyncio.timeout(_PATIENCE_S), self._publishing:
                for replica in self._replicas:
                    await replica.ready()
                end = await self._end_of_log()
                await self._history.reach(end)
                await self._claims.join()
        except TimeoutError:
            at = self._history.positions
            raise Violation(f"the log, or what was told of it, has no end; read to {at}") from None
        for follower in self._followers:
            await self._check_end(follower, end)
        self.counts["lists compared after quiet"] += len(self._followers)
        self._calm.clear()

    async def _end_of_log(self) -> Positions:
        """Return the end of the embeddings' log, once all that was published is encoded."""
        names, log = self._kit.names, self._kit.log
        content = [
            TopicPartition(names.content(target), number)
            for target in TARGETS
            for number in range(self._kit.partitions)
        ]
        while True:
            try:
                ends = await log.end_offsets(content)
                committed = await log.committed(names.encoder_group)
                if all(committed.get(tp, 0) >= end for tp, end in ends.items()):
                    return await log.end_offsets(self._history.positions)
            except (KafkaError, BrokerUnavailable):
                pass
            await asyncio.sleep(0.1)

    async def _check_end(self, follower: Follower, end: Positions) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        while True:
            try:
                follower.check_end(self._history, end)
                return
            except Violation:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.1)

    def _dice_of(self, whom: str) -> random.Random:
        """Return a random source of its own, so that no draw depends on another's."""
        return random.Random(f"{self._seed} {whom}")
