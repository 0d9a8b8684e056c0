"""Supervised processes: the pause before a restart, and the reports in the log and the metrics."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from contracts.supervision.processes import Part, Parts, exit_reason
from tidelens.runtime.metrics_exposition import PartMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_pauses_grow_to_a_bound_and_begin_again_after_a_healthy_run() -> None:
    clock = Clock()
    part = Part("broker", pause_max_s=8, now=clock)
    found = []
    for _ in range(7):
        part.mark_running()
        clock.now += 1
        found.append(part.mark_ended("it was killed by SIGKILL"))
    assert found == [0.5, 1, 2, 4, 8, 8, 8]
    part.mark_running()
    clock.now += 7.9
    assert part.mark_ended("x") == 8
    # The time before it first ran does not count.
    clock.now += 100
    assert part.mark_ended("x") == 8
    part.mark_running()
    clock.now += 8
    assert part.mark_ended("x") == 0.5


def test_the_bound_holds_for_any_number_of_ends() -> None:
    part = Part("broker", pause_max_s=60, now=Clock())
    assert {part.mark_ended("x") for _ in range(5000)} == {0.5, 1, 2, 4, 8, 16, 32, 60}


def test_a_crash_loop_writes_one_line_a_minute() -> None:
    clock = Clock()
    part = Part("encode", "hash", now=clock)
    with capture_logs() as lines:
        for second in range(600):
            part.mark_running()
            part.mark_ended(f"reason {second}")
            clock.now += 1
    assert len(lines) == 10
    assert [line["ended"] for line in lines] == [1] + [60] * 9
    assert lines[1]["reason"] == "reason 60"
    assert (lines[1]["part"], lines[1]["model"], lines[1]["pause_s"]) == ("encode", "hash", 60)


@pytest.mark.anyio
async def test_many_who_notice_one_end_wait_for_one_start() -> None:
    """A failed start makes the pause longer once, not once for each caller that noticed it."""
    part = Part("decode", pause_max_s=0.01)
    await asyncio.gather(*(part.wait_before_restart("no memory") for _ in range(20)))
    assert (part.failures, part.restarts) == (1, 1)
    await part.wait_before_restart("no memory")
    assert (part.failures, part.restarts) == (2, 2)


@pytest.mark.anyio
async def test_readyz_and_the_metrics_tell_which_one_is_down() -> None:
    parts, registry = Parts(), CollectorRegistry()
    registry.register(PartMetrics(parts))

    def shown(name: str, role: str) -> float | None:
        model = "hash" if role == "encode" else ""
        return registry.get_sample_value(name, {"role": role, "model": model})

    encoder, broker = Part("encode", "hash", pause_max_s=0), Part("broker")
    with parts.registered(encoder), parts.registered(broker):
        broker.mark_running()
        encoder.mark_running()
        assert shown("tidelens_part_running", "encode") == 1
        with capture_logs():
            await encoder.wait_before_restart("it was killed by SIGKILL")
        assert shown("tidelens_part_running", "encode") == 0
        assert shown("tidelens_part_restarts_total", "encode") == 1
        assert shown("tidelens_part_running", "broker") == 1
        assert shown("tidelens_part_restarts_total", "broker") == 0
        assert parts.describe() == [
            {
                "role": "encode",
                "model": "hash",
                "running": False,
                "restarts": 1,
                "reason": "it was killed by SIGKILL",
            },
            {"role": "broker", "model": None, "running": True, "restarts": 0, "reason": None},
        ]
    assert parts.describe() == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "it ended with exit code 0"),
        (2, "it ended with exit code 2"),
        (-9, "it was killed by SIGKILL"),
        (-99, "it was killed by signal 99"),
        (None, "it ended"),
    ],
)
def test_what_an_exit_code_means(code: int | None, words: str) -> None:
    assert exit_reason(code) == words
