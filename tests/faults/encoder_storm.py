"""A storm over three encoder processes: killed, stalled, leaving and joining while records come.

At its end, when all is encoded, the embeddings and dead letters are compared with what each record
was meant to be (tests/oracles/encoder_output.py).
"""

import asyncio
import contextlib
import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contracts.events.record import TopicPartition
from contracts.fault_points import POINTS
from contracts.topics import TARGETS
from tests.faults.slow_host import SlowHost
from tests.kits.encoder_mail import PIXELS_MAX, Mail
from tests.kits.kafka import Collection
from tests.kits.roles import PATIENCE_S, Role, of
from tests.oracles.encoder_output import Truth

WORKERS_MAX = 3
SESSION_MS = 1_500
# Small batches, so that a partition has several transactions under way when it is taken.
SETTINGS = {
    "TIDELENS_ENCODE_BATCH_CAPTIONS": "10",
    "TIDELENS_ENCODE_BATCH_PICTURES": "10",
    "TIDELENS_ENCODE_SESSION_MS": str(SESSION_MS),
    "TIDELENS_ENCODE_THREADS": "1",
    "TIDELENS_IMAGE_PIXELS_MAX": str(PIXELS_MAX),
}
_POINTS = sorted(point for point in POINTS if point.startswith("encode."))
_CALM_S = 3
_AGAIN_MAX = 4
# What is dealt to workers, shuffled, and then again.
_BLOWS = ("kill -9", "kill -9", "leave", "stall")


@dataclass(eq=False)
class Member:
    """One encoder process; with `fault` it kills or stops itself at some time."""

    role: Role
    fault: str
    leaving: bool = False
    waking: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self.role.process.returncode is None

    @property
    def may_kill_itself(self) -> bool:
        return bool(self.fault) and not self.fault.endswith("stop")

    async def wake(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.role.signal(signal.SIGCONT)

    def lines_of(self, event: str) -> int:
        return sum(line.get("event") == event for line in _lines(self.role.log))


@dataclass
class Storm:
    """One collection in one storm. The dice of the weather and of the records are apart."""

    kit: Collection
    folder: Path
    seed: int
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._host = SlowHost()
        self._mail = Mail(self.kit, random.Random(self.seed + 1), self._host)
        self._members: list[Member] = []
        self._blows: list[str] = []
        self._wrong: list[str] = []

    async def run(self, seconds: float) -> list[str]:
        """Return what was violated, after a storm of that length and a quiet end."""
        async with self._host.listening():
            waking = asyncio.create_task(self._wake_stopped())
            try:
                await self._storm(seconds)
                await self._quiet()
                return [*self._wrong, *await self._violations()]
            finally:
                waking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waking
                for member in self._members:
                    await member.role.kill()
                    if member.waking is not None:
                        member.waking.cancel()
                self.counts += self._mail.counts
                self._count_members()

    async def _storm(self, seconds: float) -> None:
        publishing = asyncio.create_task(self._mail.run())
        # Longer where the machine is so slow that little happened.
        for _ in range(_AGAIN_MAX):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._weather()
            encoded = sum((await self._committed()).values())
            self.counts["encoded when the storm ended"] = encoded
            if encoded and self.counts.keys() >= set(_BLOWS):
                break
        publishing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publishing

    async def _weather(self) -> None:
        while True:
            running = [member for member in self._members if member.is_running]
            # Who leaves is let go: a blow is for one at work.
            staying = [member for member in running if not member.leaving]
            if len(running) < WORKERS_MAX and (not staying or self._dice.random() < 0.8):
                await self._join(faulty=self._dice.random() < 0.6)
            elif staying:
                # A fault that hits only idle encoders proves nothing.
                await self._until_encoding()
                self._blow(self._dice.choice([m for m in staying if m.is_running] or staying))
            await asyncio.sleep(self._dice.uniform(0, 0.6))

    async def _until_encoding(self) -> None:
        """Wait for another commit; there may be none while too many are stopped or dead."""
        before = await self._committed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CALM_S):
                while await self._committed() == before:
                    await asyncio.sleep(0.1)

    async def _join(self, *, faulty: bool) -> None:
        """It lets a rebalance wait for what is under way, or not."""
        fault = ""
        if faulty:
            how = self._dice.choice(("", ":stop"))
            # A worker takes over far less often than it commits.
            point, passes = self._dice.choice(
                [("takeover.fencing", 3), ("takeover.fenced", 3)] * 2 + [(p, 20) for p in _POINTS]
            )
            fault = f"{point}:{self._dice.randint(1, passes)}{how}"
        drain_ms = self._dice.choice(("0", "1000"))
        settings = {
            **SETTINGS,
            **self._host.environment,
            "TIDELENS_ENCODE_DRAIN_MS": drain_ms,
        }
        role = await Role.start(self.folder, "encode", *of(self.kit), fault=fault, **settings)
        self._members.append(Member(role, fault))
        self.counts["joined"] += 1

    def _blow(self, member: Member) -> None:
        self._blows = self._blows or self._dice.sample(_BLOWS, len(_BLOWS))
        blow = self._blows.pop()
        self.counts[blow] += 1
        if blow == "kill -9":
            member.leaving = True
            member.role.signal(signal.SIGKILL)
        elif blow == "leave":
            member.leaving = True
            member.role.signal(signal.SIGTERM)
        else:
            member.role.signal(signal.SIGSTOP)

    async def _wake_stopped(self) -> None:
        """Continue stopped encoders, mostly after others have taken over their partitions."""
        while True:
            for member in self._members:
                if member.role.is_stopped and (member.waking is None or member.waking.done()):
                    seconds = SESSION_MS / 1000 + self._dice.uniform(0, 3)
                    member.waking = asyncio.create_task(member.wake(seconds))
            await asyncio.sleep(0.1)

    async def _quiet(self) -> None:
        """Let one encoder without faults encode the rest; then all of them leave in order."""
        if not any(m.is_running and not m.leaving and not m.fault for m in self._members):
            await self._join(faulty=False)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self._behind():
                    await asyncio.sleep(0.2)
        except TimeoutError:
            self._wrong.append(f"not encoded after {PATIENCE_S} s: {await self._behind()}")
        for member in self._members:
            if member.is_running and not member.leaving:
                member.leaving = True
                member.role.signal(signal.SIGTERM)
        for member in self._members:
            self._wrong += _wrong_end(member, await member.role.ended())

    async def _committed(self) -> dict[TopicPartition, int]:
        return await self.kit.log.committed(self.kit.names.encoder_group)

    async def _behind(self) -> dict[TopicPartition, int]:
        topics = [self.kit.names.content(target) for target in TARGETS]
        every = [TopicPartition(t, n) for t in topics for n in range(self.kit.partitions)]
        committed = await self._committed()
        ends = await self.kit.log.end_offsets(every)
        lag = {partition: end - committed.get(partition, 0) for partition, end in ends.items()}
        return {partition: records for partition, records in lag.items() if records}

    async def _violations(self) -> list[str]:
        kit, wrong = self.kit, []
        letters = await kit.read_all(kit.names.dead_letters)
        self.counts["dead letters"] = sum(map(len, letters.values()))
        for target in TARGETS:
            topic = kit.names.content(target)
            topic_id = (await kit.log.topic_ids([topic]))[topic]
            content = await kit.read_all(topic)
            self.counts["content records"] += sum(map(len, content.values()))
            embedded = await kit.read_all(kit.names.embeddings(target))
            self.counts["embeddings and tombstones"] += sum(map(len, embedded.values()))
            truth = Truth(topic, topic_id, content, self._mail.meant)
            wrong += list(await asyncio.to_thread(list, truth.violations(embedded, letters)))
        if self.counts["content records"] != self._mail.published:
            wrong.append(f"{self._mail.published} records were published: {self.counts}")
        return wrong

    def _count_members(self) -> None:
        for member in self._members:
            self.counts["fenced commits"] += member.lines_of("fenced")
            if member.fault:
                point, *how = member.fault.split(":")
                self.counts[f"to {'stop' if 'stop' in how else 'kill'} itself at {point}"] += 1


def _wrong_end(member: Member, code: int) -> Iterator[str]:
    """Yield what is wrong with an end that nobody asked for."""
    text = member.role.log.read_text()
    expected = {0, -signal.SIGKILL} if member.leaving else set()
    if member.may_kill_itself:
        expected.add(-signal.SIGKILL)
    if not text:
        # It was asked to leave before it could listen to that.
        expected.add(-signal.SIGTERM)
    if code not in expected:
        yield f"an encoder ended with {code}: {text[-3000:]}"
    if member.lines_of("unforeseen failure of one record"):
        yield f"an encoder met what it did not foresee: {text[-3000:]}"


def _lines(log: Path) -> Iterator[dict[str, object]]:
    for line in log.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)
