"""A line that comes again and again is written once a second, with a count."""

import io
import logging
import subprocess
import sys
from typing import Any

import orjson

from contracts.testing.clock import ManualClock
from tidelens.process.log_limits import PER_EVENT_MAX, WINDOW_S, LimitedHandler, RepeatFilter


def record(msg: Any, *args: Any, name: str = "asyncio") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "file.py", 1, msg, args, None)


def test_the_same_line_comes_once_a_second_with_a_count() -> None:
    clock = ManualClock()
    repeats = RepeatFilter(now=clock.now)
    line = "socket.accept() out of system resource\nsocket: <asyncio.TransportSocket fd=%d>"
    let_through = [repeats.lets_through(record(line, 7)) for _ in range(10_000)]
    assert let_through[0] and not any(let_through[1:])
    assert repeats.due() == []
    clock.advance(WINDOW_S)
    (summary,) = repeats.due()
    assert summary.__dict__["left_out"] == 9_999 and summary.getMessage().endswith("fd=7>")
    # It was written just now, so the next one waits for its second.
    assert not repeats.lets_through(record(line, 7))
    clock.advance(2 * WINDOW_S)
    assert [summary.__dict__["left_out"] for summary in repeats.due()] == [1]
    clock.advance(2 * WINDOW_S)
    assert repeats.due() == [] and repeats.lets_through(record(line, 7))


def test_lines_of_one_event_that_differ_are_bounded_and_others_pass() -> None:
    repeats = RepeatFilter(now=ManualClock().now)
    ours = [{"event": "request failed", "path": f"/{n}", "timestamp": n} for n in range(50)]
    assert sum(repeats.lets_through(record(fields)) for fields in ours) == PER_EVENT_MAX
    assert repeats.lets_through(record({"event": "up", "timestamp": 1}))
    assert not repeats.lets_through(record({"event": "up", "timestamp": 2}))
    assert repeats.lets_through(record("up", name="other"))


def test_what_is_remembered_is_bounded() -> None:
    repeats = RepeatFilter(now=ManualClock().now)
    for n in range(5000):
        repeats.lets_through(record(f"line {n}"))
    assert len(repeats._windows) <= 1000


def test_the_count_is_written_when_nothing_more_comes() -> None:
    clock, written = ManualClock(), io.StringIO()
    handler = LimitedHandler(written, now=clock.now)
    handler.setFormatter(logging.Formatter("%(message)s %(left_out)s", defaults={"left_out": 0}))
    for _ in range(3):
        handler.handle(record("full"))
    assert written.getvalue() == "full 0\n"
    clock.advance(WINDOW_S)
    handler.write_due()
    assert written.getvalue() == "full 0\nfull 2\n"


def test_the_count_of_a_window_that_ends_after_the_timer_is_written_too() -> None:
    clock, written = ManualClock(), io.StringIO()
    handler = LimitedHandler(written, now=clock.now)
    handler.setFormatter(logging.Formatter("%(message)s %(left_out)s", defaults={"left_out": 0}))
    for line in ("one", "two"):
        for _ in range(2):
            handler.handle(record(line))
        clock.advance(WINDOW_S / 2)
    handler.write_due()
    assert written.getvalue() == "one 0\ntwo 0\none 1\n"
    assert handler._timer is not None  # for the second window
    clock.advance(WINDOW_S)
    handler.write_due()
    assert written.getvalue() == "one 0\ntwo 0\none 1\ntwo 1\n"
    assert handler._timer is None


PROGRAM = """
import logging, structlog
from tidelens.process import log_limits
from tidelens.process.logs import configure
log_limits.WINDOW_S = 0.1
configure("json", "test")
(handler,) = logging.getLogger().handlers
now = 0.0
handler._repeats._now = lambda: now
ours = structlog.get_logger("ours")
for n in range(1000):
    logging.getLogger("asyncio").error("out of resources")
    ours.warning("refused", field="x")
now = 1.0
def timer():
    with handler.lock:
        return handler._timer
while (running := timer()) is not None:
    running.join()
"""


def test_all_loggers_of_a_process_are_limited() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [orjson.loads(line) for line in ran.stderr.splitlines()]
    events = [(line["event"], line.get("left_out")) for line in lines]
    assert sorted(events, key=str) == [
        ("out of resources", 999),
        ("out of resources", None),
        ("refused", 999),
        ("refused", None),
    ]
