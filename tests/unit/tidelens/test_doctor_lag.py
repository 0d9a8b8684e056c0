"""`tidelens doctor` names missing encoders and partitions that are held back."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.ports.lag import Lag
from contracts.settings import KafkaSettings, Settings
from tidelens.cli.base.lag_measurement import LagReport
from tidelens.cli.doctor import lag

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TIDELENS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIDELENS_DATA", str(tmp_path / "data"))


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LagReport]]:
    """The broker answers with the last one in the list."""
    told: list[LagReport] = []

    async def measure_lag(*_: object, **__: object) -> LagReport:
        return told[-1]

    monkeypatch.setattr("tidelens.cli.base.lag_measurement.measure_lag", measure_lag)
    yield told


async def read_lag() -> list[tuple[str, str, str | None]]:
    every = await lag.lag(Settings(brokers="b:1", model="hash"), KafkaSettings())
    return [(each.state, each.detail, each.fix) for each in every]


async def test_an_open_transaction_that_holds_records_is_named(measured: list[LagReport]) -> None:
    held = Lag("encode", "t.encode.s", "t.images", 3, 5, 5, 0, 0.0, "s", 2, 61.0, 1)
    # A moment ago, as an encoder's own always are.
    passing = replace(held, partition=4, unstable_seconds=0.03)
    measured.append(LagReport("s", [held, passing], 61.0))
    assert await read_lag() == [
        (
            "warning",
            "t.images partition 3: the last stable offset stands at 5 for 61 s, 2 records wait "
            "behind an open transaction",
            "kafka-transactions.sh --bootstrap-server b:1 describe-producers --topic t.images "
            "--partition 3, which names the producer to end",
        )
    ]


async def test_encoders_are_missed_once_there_is_work(measured: list[LagReport]) -> None:
    encode = Lag("encode", "t.encode.s", "t.images", 0, 5, 5, 0, 0.0, "s", members=0)
    index = Lag("index", "t.index.s.0.a", "t.e.images", 0, 5, 5, 0, 0.0, "s", members=1)
    missed = (
        "warning",
        "nobody encodes space s: group t.encode.s has no members",
        "tidelens encode",
    )
    measured.append(LagReport("s", [encode], None))
    assert await read_lag() == [("ok", "space s: behind not known", None)], "nothing was started"
    measured.append(LagReport("s", [replace(encode, records=2, seconds=1.0)], 1.0))
    assert await read_lag() == [missed]
    measured.append(LagReport("s", [encode, index], 0.0))
    assert await read_lag() == [missed]
    measured.append(LagReport("s", [replace(encode, members=1), index], 0.0))
    assert await read_lag() == [("ok", "space s: behind 0.0 s", None)]
    stopped = replace(index, group="t.index.s.0.b", members=0)
    measured.append(LagReport("s", [replace(encode, members=1), index, stopped], 0.0))
    assert await read_lag() == [
        ("ok", "space s: behind 0.0 s; index groups without a node: 1", None)
    ]
    measured.append(LagReport("s", [replace(encode, members=1), replace(index, members=2)], 0.0))
    [(state, detail, _)] = await read_lag()
    assert (state, detail[:31]) == ("warning", "2 nodes run as t.index.s.0.a, o")


async def test_without_a_broker_the_lag_is_not_looked_at(free_port: int) -> None:
    for brokers in (None, f"127.0.0.1:{free_port}"):
        settings = Settings(brokers=brokers, model="hash")
        [told] = await lag.lag(settings, KafkaSettings())
        assert told.state == "skipped"
