"""The encoders that `up` runs: one for each model that the control topic names."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from blockbuster import BlockBuster

from contracts.errors import BrokerUnavailable, UsageError
from contracts.events.control_record import ActiveSpace, CandidateSpace, SpaceRef
from contracts.settings import Settings
from contracts.supervision.processes import Parts
from contracts.supervision.side_tasks import SideTasks
from contracts.testing.encoder import HashEncoder
from streams.registry.control_topic import Control
from tests.kits.waiting import turns, until
from tidelens.process.child_reports import ChildReports
from tidelens.runtime import encoders as encoders_module
from tidelens.runtime.encoder_process import EncoderExit, EncoderProcess
from tidelens.runtime.encoders import Encoders
from tidelens.runtime.run_file import RunFile, remember_model, remembered_model
from tidelens.server.server import listen

pytestmark = pytest.mark.anyio

OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")


class FakeProcess:
    """Stands for a child; the real one is started by the tests of `up`."""

    running: list[str]
    started: list[tuple[str, int]]

    lives: list["FakeProcess"]

    def __init__(self, model: str) -> None:
        self.model = model
        self.pid = 4242
        self.ended: asyncio.Future[EncoderExit] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls, settings: Settings, model: str, listener: socket.socket | None
    ) -> "FakeProcess":
        if model == "none":
            raise OSError("no memory")
        cls.started.append((model, listener.getsockname()[1] if listener else 0))
        cls.running.append(model)
        cls.lives.append(process := cls(model))
        return process

    def attach(self, brokers: str) -> None:
        assert brokers == "k:1"

    async def watch(self, works: Callable[[], None]) -> EncoderExit:
        if self.model == "dies":
            return EncoderExit("no such model", UsageError("no such model"))
        works()
        return await self.ended

    async def stop(self) -> None:
        self.running.remove(self.model)


class Kit:
    def __init__(self, metrics: socket.socket | None = None, model: str = "hash") -> None:
        FakeProcess.running, FakeProcess.started, FakeProcess.lives = [], [], []
        self.told: asyncio.Queue[Control | None] = asyncio.Queue()
        self.handled = 0
        # Nothing is written: `up` does that once all is there.
        self.parts = Parts()
        settings = Settings(model=model, restart_pause_max_s=0.02)
        self.encoders = Encoders(settings, metrics, RunFile(Path("nowhere")), self.parts)

    @property
    def port(self) -> int:
        assert self.encoders._metrics is not None
        port: int = self.encoders._metrics.getsockname()[1]
        return port

    async def lives(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(FakeProcess.lives) < count:
                await asyncio.sleep(0.01)

    async def followed(self) -> AsyncIterator[Control]:
        while True:
            control = await self.told.get()
            if control is None:
                raise BrokerUnavailable("control")
            yield control
            # The next one is wanted: this one was acted upon.
            self.handled += 1

    async def handles(self, control: Control) -> None:
        """Send a control record, and wait until all that follows from it has happened."""
        handled = self.handled
        self.told.put_nowait(control)
        await until(lambda: self.handled > handled)
        await turns(200)

    async def runs(self, *models: str) -> None:
        async with asyncio.timeout(30):
            while sorted(FakeProcess.running) != sorted(models):
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def no_real_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders_module, "EncoderProcess", FakeProcess)


@pytest.fixture
def metrics() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as listener:
        yield listener


@pytest.fixture
async def kit(metrics: socket.socket) -> AsyncIterator[Kit]:
    kit = Kit(metrics)
    await kit.encoders.start("hash")
    running = asyncio.create_task(kit.encoders.run("k:1", kit.followed, SideTasks()))
    kit.told.put_nowait(Control())
    yield kit
    running.cancel()
    await asyncio.wait([running])
    assert FakeProcess.running == []


async def test_one_for_each_space_that_is_served_or_encoded(kit: Kit) -> None:
    await kit.runs("hash")
    await kit.handles(Control(None, CandidateSpace(NEW, 1.0)))
    await kit.runs("hash")
    kit.told.put_nowait(Control(None, CandidateSpace(NEW, 1.0, 2.0)))
    await kit.runs("hash", "hash:48")
    await kit.handles(Control(ActiveSpace(NEW, OLD, 3.0)))
    await kit.runs("hash", "hash:48")
    kit.told.put_nowait(Control(ActiveSpace(NEW, None, 4.0)))
    await kit.runs("hash:48")
    # Each was started once, the first on the port that is known, the other on a free one.
    [first, (model, port)] = FakeProcess.started
    assert (first, model) == (("hash", kit.port), "hash:48")
    assert port not in (0, kit.port)


async def test_whatever_one_ends_of_it_is_started_again_on_its_port(kit: Kit) -> None:
    kit.told.put_nowait(Control(None, CandidateSpace(NEW, 1.0, 2.0)))
    await kit.runs("hash", "hash:48")
    verdict = EncoderExit("no such model", UsageError("no such model"))
    for model, ended in (
        ("hash", EncoderExit("it was killed by SIGKILL")),
        ("hash:48", EncoderExit("it ended with exit code 0")),
        ("hash", verdict),
        ("hash:48", verdict),
    ):
        lives = len(FakeProcess.lives)
        [process] = [p for p in FakeProcess.lives if p.model == model and not p.ended.done()]
        process.ended.set_result(ended)
        await kit.lives(lives + 1)
        await kit.runs("hash", "hash:48")
    assert len(FakeProcess.started) == 6
    assert set(FakeProcess.started[2:]) == set(FakeProcess.started[:2])
    assert kit.parts.describe() == [
        {
            "role": "encode",
            "model": model,
            "running": True,
            "restarts": 2,
            "reason": "no such model",
        }
        for model in ("hash", "hash:48")
    ]
    kit.told.put_nowait(Control())
    await kit.runs("hash")
    assert [part.model for part in kit.parts] == ["hash"]


async def test_they_run_on_while_nobody_can_read_the_control_topic(kit: Kit) -> None:
    await kit.runs("hash")
    kit.told.put_nowait(None)
    kit.told.put_nowait(Control(None, CandidateSpace(NEW, 1.0, 2.0)))
    await kit.runs("hash", "hash:48")
    assert len(FakeProcess.started) == 2


@pytest.mark.parametrize("model", ["dies", "none"])
async def test_one_that_fails_beside_is_tried_again(kit: Kit, model: str) -> None:
    fails = SpaceRef("other", model, "00")
    kit.told.put_nowait(Control(None, CandidateSpace(fails, 1.0, 2.0)))
    async with asyncio.timeout(30):
        while [part.restarts for part in kit.parts if part.model == model] in ([], [0], [1]):
            await asyncio.sleep(0.01)
    assert FakeProcess.running == ["hash"]
    kit.told.put_nowait(Control())
    await kit.runs("hash")


async def test_it_ends_in_the_middle_of_a_pause(metrics: socket.socket) -> None:
    kit = Kit(metrics)
    kit.encoders._settings = Settings(model="hash", restart_pause_max_s=3600)
    running = asyncio.create_task(kit.encoders.run("k:1", kit.followed, SideTasks()))
    kit.told.put_nowait(Control())
    await kit.runs("hash")
    FakeProcess.lives[0].ended.set_result(EncoderExit("it was killed by SIGKILL"))
    await kit.runs()
    running.cancel()
    await asyncio.wait([running])
    assert FakeProcess.running == []
    assert list(kit.parts) == []


async def test_a_wrong_guess_is_stopped(metrics: socket.socket) -> None:
    kit = Kit(metrics)
    await kit.encoders.start("guessed")
    running = asyncio.create_task(kit.encoders.run("k:1", kit.followed, SideTasks()))
    kit.told.put_nowait(Control())
    await kit.runs("hash")
    assert FakeProcess.started == [("guessed", kit.port), ("hash", kit.port)]
    running.cancel()
    await asyncio.wait([running])


async def test_without_metrics_there_are_none_beside_either() -> None:
    kit = Kit(metrics=None)
    running = asyncio.create_task(kit.encoders.run("k:1", kit.followed, SideTasks()))
    kit.told.put_nowait(Control(ActiveSpace(NEW, OLD, 1.0)))
    await kit.runs("hash", "hash:48")
    assert {port for _, port in FakeProcess.started} == {0}
    running.cancel()
    await asyncio.wait([running])


async def test_the_first_start_of_the_current_one_may_fail(metrics: socket.socket) -> None:
    kit = Kit(metrics, "dies")
    kit.told.put_nowait(Control())
    with pytest.raises(ExceptionGroup) as group:
        async with asyncio.timeout(30):
            await kit.encoders.run("k:1", kit.followed, SideTasks())
    [error] = group.value.exceptions
    assert isinstance(error, UsageError)
    assert str(error) == "no such model"


def test_the_model_to_load_at_the_next_start(tmp_path: Path) -> None:
    assert remembered_model(tmp_path) is None
    remember_model(tmp_path, "hash:48")
    assert remembered_model(tmp_path) == "hash:48"
    remember_model(tmp_path, None)
    remember_model(tmp_path, None)
    assert remembered_model(tmp_path) is None


async def test_queries_come_before_it(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # starting a process is one
    encoder = await EncoderProcess.start(Settings(model="hash"), "hash", None)
    try:
        assert psutil.Process(encoder.pid).nice() == 19
        # In a session of its own it would have half of a processor, however nice (autogroup).
        assert os.getsid(encoder.pid) == os.getsid(0)
        # And yet a Ctrl-C in our terminal does not reach it.
        assert os.getpgid(encoder.pid) != os.getpgid(0)
    finally:
        await encoder.stop()


async def test_a_child_tells_why_it_ends(no_blocking_calls: BlockBuster, tmp_path: Path) -> None:
    no_blocking_calls.deactivate()  # starting a process is one
    (tmp_path / "config.json").write_text("{")
    encoder = await EncoderProcess.start(Settings(model="hash"), str(tmp_path), None, nice=0)
    try:
        encoder.attach("127.0.0.1:1")
        async with asyncio.timeout(100):
            ended = await encoder.watch(lambda: pytest.fail("it does not work"))
        assert "config.json is not JSON" in ended.reason
        assert isinstance(ended.error, UsageError)
    finally:
        await encoder.stop()


@pytest.mark.parametrize(
    ("program", "reason", "final"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "it was killed by SIGKILL", False),
        ("os.kill(os.getpid(), signal.SIGTERM)", "it was killed by SIGTERM", False),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it was killed by SIGSEGV", True),
        ("sys.exit(0)", "it ended with exit code 0", False),
        ("sys.exit(3)", "it ended with exit code 3", True),
    ],
)
async def test_who_ended_a_child_from_outside_does_not_judge_it(
    no_blocking_calls: BlockBuster, program: str, reason: str, final: bool
) -> None:
    no_blocking_calls.deactivate()  # starting a process is one
    code = f"import os, signal, sys; {program}"
    async with ChildReports.opened() as (reports, descriptor):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, pass_fds=[descriptor]
        )
    encoder = EncoderProcess(process, reports)
    ended = await encoder.watch(lambda: pytest.fail("it does not work"))
    await encoder.stop()
    assert (ended.reason, ended.error is not None) == (reason, final)
