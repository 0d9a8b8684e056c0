"""An error of a side task never ends its role, and every task is supervised or documented."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from api.app import background
from contracts.errors import BrokerUnavailable, NotReady, RejectedRequest
from contracts.settings import KafkaSettings, Settings
from contracts.supervision.side_tasks import MAIN, PAUSE_MAX_S, SideTasks
from contracts.testing.clock import ManualClock
from contracts.topics import Names
from streams.kafka.connection import KafkaConnection
from streams.maintainer.faust_app import streams_app, timers
from streams.maintainer.maintainer import Maintainer
from streams.maintainer.windowed_counts import WindowedCounts
from streams.registry.control_topic import Control
from tests.kits.api_kit import Kit
from tests.kits.task_scan import ROOT, found
from tidelens.runtime.spaces import Spaces
from tidelens.runtime.up import _feeds
from tidelens.server import server
from tidelens.server.admission import ConnectionLimiter

pytestmark = pytest.mark.anyio

TOLD = "a side task failed; it is tried again"
OF_THE_BROKER = "put off until the broker answers"


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """Return the captured log lines; printing their tracebacks would block the event loop."""
    with capture_logs() as logs:
        yield logs


class Time:
    """A clock that advances only when a task sleeps; `naps` are the pauses, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.naps.append(round(seconds, 3))
        self.now += seconds
        await asyncio.sleep(0)

    def side(self) -> SideTasks:
        return SideTasks(sleep=self.sleep, now=lambda: self.now)


def raising(error: BaseException) -> Callable[[], Any]:
    async def work() -> None:
        raise error

    return work


async def nothing() -> None:
    pass


# The supervisor


@pytest.mark.parametrize(
    ("error", "level", "event"),
    [
        (KafkaConnectionError("away"), "warning", OF_THE_BROKER),
        (BrokerUnavailable("no broker"), "warning", OF_THE_BROKER),
        (ConnectionRefusedError("refused"), "warning", OF_THE_BROKER),
        (RejectedRequest("bad", "a filter"), "warning", TOLD),
        (OSError(28, "No space left on device"), "warning", TOLD),
        (NotReady("replaying"), "warning", TOLD),
        (KeyError("unit-v1/0/0/"), "error", TOLD),
        (MemoryError("much"), "error", TOLD),
        (ExceptionGroup("some", [ValueError("inner"), KeyError(1)]), "error", TOLD),
        (asyncio.CancelledError("of a library"), "error", TOLD),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
async def test_whatever_a_step_raises_is_told_under_its_name(
    error: BaseException, level: str, event: str
) -> None:
    """An error of the broker is logged as such, and an unforeseen error with its traceback."""
    side = SideTasks()
    with capture_logs() as logs:
        assert not await side.run_step("commit", raising(error))
    [line] = logs
    assert (line["event"], line["log_level"], line["task"]) == (event, level, "commit")
    assert type(error).__name__ in line["error"]
    assert str(error) in line["error"]
    assert line.get("exc_info") is (error if level == "error" else None)
    assert side.failing()["commit"]["failures"] == 1


async def test_a_step_is_left_out_while_its_pause_lasts_and_the_pause_grows() -> None:
    time, tries = Time(), Counter[str]()
    side = time.side()

    async def fails() -> None:
        tries["fails"] += 1
        raise KeyError("x")

    at = []
    for _ in range(40):
        before = tries["fails"]
        await side.run_step("fails", fails)
        assert await side.run_step("works", nothing)
        if tries["fails"] > before:
            at.append(time.now - 100)
        time.now += 1
    assert at == [0, 1, 3, 7, 15, 25, 35]
    assert [*side.failing()] == ["fails"]
    time.now += PAUSE_MAX_S
    with capture_logs() as logs:
        assert await side.run_step("fails", nothing)
    assert [line["event"] for line in logs] == ["a side task works again"]
    assert side.failing() == {}
    await side.run_step("fails", raising(KeyError("y")))
    assert side.failing()["fails"]["failures"] == 1


async def test_a_task_that_ends_or_raises_runs_again_until_it_is_cancelled() -> None:
    time, runs = Time(), 0
    side = time.side()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            return
        if runs == 3:
            await time.sleep(60)
        if runs == 4:
            assert side.failing()["feed"]["reason"] == "ValueError: 3"
            time.now += 30
            assert side.failing() == {}, "it has run for a while now"
            await asyncio.Event().wait()
        raise ValueError(runs)

    task = asyncio.create_task(side.forever("feed", run))
    async with asyncio.timeout(20):
        while runs < 4:
            await asyncio.sleep(0)
    assert time.naps == [1, 2, 60, 1], "the pause begins small after a time without errors"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_goes_through() -> None:
    side, begun = SideTasks(), asyncio.Event()

    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    for work in (side.run_step("a", waits), side.until_done("a", waits), side.forever("a", waits)):
        begun.clear()
        task = asyncio.create_task(work)
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert side.failing() == {}


async def test_failures_are_counted_by_task_and_space_and_forgotten_with_the_space() -> None:
    registry, side = CollectorRegistry(), SideTasks()
    registry.register(side)

    def failures(task: str, space: str) -> float | None:
        labels = {"task": task, "space": space}
        return registry.get_sample_value("tidelens_side_task_failures_total", labels)

    await side.run_step("trim", raising(KeyError(1)))
    with side.for_space("clip") as own:
        await own.run_step("commit", raising(KeyError(1)))
        assert sorted(own.failing()) == ["commit", "trim"]
        assert [*side.failing()] == ["trim"]
        assert (failures("trim", ""), failures("commit", "clip")) == (1, 1)
        labels = {"task": "commit", "space": "clip"}
        assert registry.get_sample_value("tidelens_side_task_failing", labels) == 1
    assert (failures("trim", ""), failures("commit", "clip")) == (1, None)


# Each side task of a role


class BrokenMaintainer:
    """A maintainer of which every step raises KeyError; `asked` counts the calls by name."""

    def __init__(self) -> None:
        self.asked = Counter[str]()

    def __getattr__(self, name: str) -> Callable[[], Awaitable[None]]:
        async def step() -> None:
            self.asked[name] += 1
            raise KeyError(name)

        return step


async def test_what_a_timer_of_the_streams_app_raises_never_reaches_faust(tmp_path: Path) -> None:
    side, maintainer = SideTasks(), BrokenMaintainer()
    app = await asyncio.to_thread(
        streams_app,
        KafkaConnection("127.0.0.1:1", KafkaSettings()),
        Names("t.", "s"),
        "app",
        tmp_path,
        cast(Maintainer, maintainer),
        WindowedCounts(),
        ManualClock(),
        side,
    )

    async def once(*_: object, **__: object) -> AsyncIterator[float]:
        yield 0.0

    app.itertimer = once
    wanted = timers(cast(Maintainer, maintainer))
    assert len(app._app_tasks) == len(wanted) == 7
    for task in app._app_tasks:
        await task()
    assert maintainer.asked.total() == 7
    assert sorted(side.failing()) == sorted(wanted)


@pytest.mark.parametrize("broken", ["freshness", "live"])
async def test_what_runs_beside_the_api_never_ends_it(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = Kit()
    side, live = kit.node.side, kit.app.state.live
    fail = raising(KeyError("unforeseen"))
    monkeypatch.setattr(kit.lag, "lag", fail)
    monkeypatch.setattr(live, "_check_sessions", fail)
    run = side.supervise(background(kit.app))[broken]
    with capture_logs() as logs:
        task = asyncio.create_task(run())  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while broken not in side.failing():
                await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
    assert [(line["task"], line["error"]) for line in logs] == [(broken, "KeyError: 'unforeseen'")]


async def test_lists_that_could_not_be_searched_wait_for_the_next_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit(side=SideTasks(pause_min_s=0.01))
    kit.caption("a", "red cat")
    refills = kit.app.state.live.registry.refills
    errors, whole = [KeyError("unforeseen")], refills._search

    async def search(taken: Any) -> None:
        if errors:
            raise errors.pop()
        await whole(taken)

    monkeypatch.setattr(refills, "_search", search)
    async with kit.live() as socket:
        await socket.accepted()
        socket.subscribe("a", text="red cat", target="captions")
        message = await socket.receive()
    assert [hit["id"] for hit in message["hits"]] == ["a"]
    assert not errors


async def test_a_limiter_that_cannot_be_checked_serves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, side = ConnectionLimiter(), SideTasks()

    def check() -> None:
        raise KeyError("connection")

    monkeypatch.setattr(limiter, "check", check)
    task = asyncio.create_task(server._check(limiter, 0.001, side))
    async with asyncio.timeout(20):
        while not side.failing():
            await asyncio.sleep(0.001)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_spaces_stay_as_they_are_while_nobody_can_read_the_control_topic() -> None:
    side = SideTasks()

    async def follow() -> AsyncIterator[Control]:
        raise KeyError("control")
        yield Control()

    spaces = Spaces.__new__(Spaces)
    Spaces.__init__(spaces, cast(Any, None), cast(Any, None), side)
    spaces._wanted = []
    task = asyncio.create_task(spaces.run(follow))
    async with asyncio.timeout(20):
        while "control" not in side.failing():
            await asyncio.sleep(0.001)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


# All of them


TABLE = (ROOT / "docs" / "internals" / "tasks.md").read_text()


def section(title: str) -> str:
    return TABLE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_start_of_a_task_is_listed() -> None:
    """A new task belongs in docs/internals/tasks.md: main, supervised, or of a single request."""
    listed = {where: int(n) for where, n in re.findall(r"`([^`]+: [^`]+)` ×(\d+)", TABLE)}
    assert listed == found().where


def side_names() -> set[str]:
    """Return the names of side tasks in the source, as passed to the supervisor or run by name."""
    names = set().union(*found().names.values())
    names |= timers(cast(Maintainer, BrokenMaintainer())).keys()
    names |= background(Kit().app).keys()
    feeds = _feeds(cast(Any, None), Names("t.", "s"), Settings(), sample=True, watch=Path())
    return names | feeds.keys()


def test_every_side_task_is_supervised_under_the_name_that_is_listed() -> None:
    listed = set(re.findall(r"^\|[^|]*\| `([^`]+)` \|", section("Side tasks"), re.MULTILINE))
    assert side_names() - MAIN == listed
    assert not MAIN & listed
    named = set(re.findall(r"`([a-z]+)`", section("Main tasks")))
    assert named >= MAIN


def test_only_main_tasks_run_unsupervised() -> None:
    async def run() -> None:
        pass

    side = SideTasks()
    runs = side.supervise(dict.fromkeys([*MAIN, "new"], run))
    assert [name for name, one in runs.items() if one is not run] == ["new"]
