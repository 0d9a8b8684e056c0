"""Which encoders `up` runs: one for each model that the control topic names."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from blockbuster import BlockBuster

from contracts.errors import TidelensError
from contracts.memory import HashEncoder
from contracts.settings import Settings
from streams.control import ActiveSpace, CandidateSpace, Control, SpaceRef
from tidelens import encoders as encoders_module
from tidelens.encoders import EncoderProcess, Encoders
from tidelens.runtime import RunFile, remember_model, remembered_model

pytestmark = pytest.mark.anyio

OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")


class FakeProcess:
    """Stands for a child; the real one is started by the tests of `up`."""

    running: list[str]
    started: list[tuple[str, int]]

    def __init__(self, model: str) -> None:
        self.model = model
        self.pid = 4242
        self.died = asyncio.Event()

    @classmethod
    async def start(cls, settings: Settings, model: str, metrics_port: int) -> "FakeProcess":
        cls.started.append((model, metrics_port))
        cls.running.append(model)
        return cls(model)

    def attach(self, brokers: str) -> None:
        assert brokers == "k:1"

    async def watch(self) -> None:
        if self.model == "dies":
            raise TidelensError("the encoder process ended with exit code 2")
        await self.died.wait()

    async def stop(self) -> None:
        self.running.remove(self.model)


class Kit:
    def __init__(self, metrics_port: int = 9000) -> None:
        FakeProcess.running, FakeProcess.started = [], []
        self.told: asyncio.Queue[Control] = asyncio.Queue()
        # Nothing is written: `up` does that once all is there.
        self.encoders = Encoders(Settings(model="hash"), metrics_port, RunFile(Path("nowhere")))

    async def followed(self) -> AsyncIterator[Control]:
        while True:
            yield await self.told.get()

    async def runs(self, *models: str) -> None:
        async with asyncio.timeout(30):
            while sorted(FakeProcess.running) != sorted(models):
                await asyncio.sleep(0.01)


@pytest.fixture
async def kit(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kit]:
    monkeypatch.setattr(encoders_module, "EncoderProcess", FakeProcess)
    kit = Kit()
    await kit.encoders.start("hash")
    running = asyncio.create_task(kit.encoders.run("k:1", kit.followed()))
    kit.told.put_nowait(Control())
    yield kit
    running.cancel()
    await asyncio.wait([running])
    assert FakeProcess.running == []


async def test_one_for_each_space_that_is_served_or_encoded(kit: Kit) -> None:
    await kit.runs("hash")
    kit.told.put_nowait(Control(None, CandidateSpace(NEW, 1.0)))
    await asyncio.sleep(0.05)
    await kit.runs("hash")
    kit.told.put_nowait(Control(None, CandidateSpace(NEW, 1.0, 2.0)))
    await kit.runs("hash", "hash:48")
    kit.told.put_nowait(Control(ActiveSpace(NEW, OLD, 3.0)))
    await asyncio.sleep(0.05)
    await kit.runs("hash", "hash:48")
    kit.told.put_nowait(Control(ActiveSpace(NEW, None, 4.0)))
    await kit.runs("hash:48")
    # Each was started once, the first on the port that is known, the other on a free one.
    [first, (model, port)] = FakeProcess.started
    assert (first, model) == (("hash", 9000), "hash:48")
    assert port not in (0, 9000)


async def test_one_that_fails_beside_is_tried_again(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders_module, "_AGAIN_S", 0.02)
    dies = SpaceRef("other", "dies", "00")
    kit.told.put_nowait(Control(None, CandidateSpace(dies, 1.0, 2.0)))
    async with asyncio.timeout(30):
        while [model for model, _ in FakeProcess.started].count("dies") < 3:
            await asyncio.sleep(0.01)
    kit.told.put_nowait(Control())
    await kit.runs("hash")


async def test_a_wrong_guess_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders_module, "EncoderProcess", FakeProcess)
    kit = Kit()
    await kit.encoders.start("guessed")
    running = asyncio.create_task(kit.encoders.run("k:1", kit.followed()))
    kit.told.put_nowait(Control())
    await kit.runs("hash")
    assert FakeProcess.started == [("guessed", 9000), ("hash", 9000)]
    running.cancel()
    await asyncio.wait([running])


async def test_without_metrics_there_are_none_beside_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoders_module, "EncoderProcess", FakeProcess)
    kit = Kit(metrics_port=0)
    running = asyncio.create_task(kit.encoders.run("k:1", kit.followed()))
    kit.told.put_nowait(Control(ActiveSpace(NEW, OLD, 1.0)))
    await kit.runs("hash", "hash:48")
    assert {port for _, port in FakeProcess.started} == {0}
    running.cancel()
    await asyncio.wait([running])


async def test_the_current_ones_end_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders_module, "EncoderProcess", FakeProcess)
    kit = Kit()
    kit.encoders = Encoders(Settings(model="dies"), 9000, RunFile(Path("nowhere")))
    kit.told.put_nowait(Control())
    with pytest.raises(ExceptionGroup) as group:
        async with asyncio.timeout(30):
            await kit.encoders.run("k:1", kit.followed())
    assert "exit code 2" in str(group.value.exceptions[0])


def test_the_model_to_load_at_the_next_start(tmp_path: Path) -> None:
    assert remembered_model(tmp_path) is None
    remember_model(tmp_path, "hash:48")
    assert remembered_model(tmp_path) == "hash:48"
    remember_model(tmp_path, None)
    remember_model(tmp_path, None)
    assert remembered_model(tmp_path) is None


async def test_queries_come_before_it(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # starting a process is one
    encoder = await EncoderProcess.start(Settings(model="hash"), "hash", 0)
    try:
        assert psutil.Process(encoder.pid).nice() == 19
        # In a session of its own it would have half of a processor, however nice (autogroup).
        assert os.getsid(encoder.pid) == os.getsid(0)
        # And yet a Ctrl-C in our terminal does not reach it.
        assert os.getpgid(encoder.pid) != os.getpgid(0)
    finally:
        await encoder.stop()
