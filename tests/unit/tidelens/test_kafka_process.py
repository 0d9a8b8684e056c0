"""Kafka as a part of `up`: started again whatever it ends of, until `up` is stopped."""

import asyncio
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from contracts.errors import BrokerUnavailable
from contracts.supervision.processes import Part
from streams.devbroker.broker import LocalBroker
from tidelens.runtime.kafka_process import keep_running
from tidelens.runtime.run_file import RunFile

pytestmark = pytest.mark.anyio


class Broker:
    """A broker that a test ends, and whose next starts fail as often as the test says."""

    def __init__(self) -> None:
        self.pid = 1
        self.starts = 0
        self.failures: list[Exception] = []
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await self.ended

    async def start(self) -> str:
        self.starts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.pid += 1
        self.ended = asyncio.get_running_loop().create_future()
        return ""


class Kit:
    def __init__(self) -> None:
        self.broker = Broker()
        self.part = Part("broker", pause_max_s=0.01)
        self.part.mark_running()
        self.stop = asyncio.Event()
        broker = cast(LocalBroker, self.broker)
        self.keeping = asyncio.create_task(
            keep_running(broker, self.part, RunFile(Path("nowhere")), self.stop)
        )

    async def runs_again(self) -> None:
        async with asyncio.timeout(30):
            while not self.part.running:
                await asyncio.sleep(0.001)


async def test_it_is_started_again_however_often_that_fails() -> None:
    kit = Kit()
    failures = [BrokerUnavailable("no answer"), OSError("no memory"), KeyError("a defect")]
    kit.broker.failures = list(failures)
    with capture_logs() as lines:
        kit.broker.ended.set_result(-9)
        await asyncio.sleep(0.001)
        assert kit.part.reason == "it was killed by SIGKILL"
        await kit.runs_again()
        assert kit.broker.starts == kit.part.restarts == 4
        assert kit.part.reason == "it does not start: 'a defect'"
        kit.broker.ended.set_result(1)
        await asyncio.sleep(0.001)
        await kit.runs_again()
    assert kit.part.reason == "it ended with exit code 1"
    assert len(lines) == 1, "one line a minute"
    kit.keeping.cancel()


@pytest.mark.parametrize("when", ["before it ended", "in the pause"])
async def test_it_stays_down_once_up_is_stopped(when: str) -> None:
    kit = Kit()
    if when == "before it ended":
        kit.stop.set()
    kit.broker.ended.set_result(-15)
    await asyncio.sleep(0)
    kit.stop.set()
    async with asyncio.timeout(30):
        await kit.keeping
    assert kit.broker.starts == 0
