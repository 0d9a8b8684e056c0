"""Write a repeated log line once a second at most, so that a stranger cannot fill the disk.

asyncio alone wrote 235,518 lines in 20 s when it could accept no more connections.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Any

WINDOW_S = 1.0
# The number of lines in a window that are warnings or errors of one event and differ in their
# details, such as a path that a client chose. Lines below a warning have no such limit: they report
# the progress of Tidelens itself.
PER_EVENT_MAX = 20
# The number of different lines and events that are remembered at once.
_KEYS_MAX = 1000
# A summary is written this much after the end of the window, so that the window has ended.
_LATER_S = 0.01
_KEY_CHARS_MAX = 500


@dataclass(slots=True)
class _Window:
    began: float
    let_through: int = 0
    left_out: int = 0
    # The last line that was left out. It is kept for a second or two only, since it may hold a
    # traceback.
    record: logging.LogRecord | None = None


class RepeatFilter:
    """The rule that decides which lines are left out and which are written later. No I/O."""

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        # The windows that began first come first.
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()

    def lets_through(self, record: logging.LogRecord) -> bool:
        """Count the line, and return whether it may be written."""
        event, line = _keys(record)
        if not self._counts(line, record, 1):
            return False
        return record.levelno < logging.WARNING or self._counts(event, record, PER_EVENT_MAX)

    def due(self) -> list[logging.LogRecord]:
        """Return the last line left out of each window that has ended, with the window's count."""
        summaries, now = [], self._now()
        for key, window in tuple(self._windows.items()):
            if now - window.began < WINDOW_S:
                break
            del self._windows[key]
            if window.record is not None:
                summaries.append(_with_count(window.record, window.left_out))
                self._windows[key] = _Window(now, let_through=1)
        return summaries

    def pending(self) -> bool:
        """Return whether `due` will have a line once more windows have ended."""
        return any(window.record is not None for window in self._windows.values())

    def _counts(self, key: Hashable, record: logging.LogRecord, most: int) -> bool:
        window = self._windows.get(key)
        if window is None or (window.record is None and self._now() - window.began >= WINDOW_S):
            self._windows.pop(key, None)
            window = self._windows[key] = _Window(self._now())
            if len(self._windows) > _KEYS_MAX:
                self._windows.popitem(last=False)
        if window.let_through < most:
            window.let_through += 1
            return True
        window.left_out += 1
        window.record = record
        return False


class LimitedHandler(logging.StreamHandler[Any]):
    """A handler that leaves repeated lines out, and writes a second later how many there were."""

    def __init__(self, stream: Any, *, now: Callable[[], float] = monotonic) -> None:
        super().__init__(stream)
        self._repeats = RepeatFilter(now=now)
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line or count it. The caller holds the lock of the handler."""
        if self._repeats.lets_through(record):
            super().emit(record)
        elif self._timer is None:
            self._start_timer()

    def write_due(self) -> None:
        """Write what is due; a line that goes on coming is due again a second later."""
        self.acquire()
        try:
            self._timer = None
            for record in self._repeats.due():
                super().emit(record)
            # A window that began later than the one that the timer was for ends later.
            if self._repeats.pending():
                self._start_timer()
        finally:
            self.release()

    def _start_timer(self) -> None:
        self._timer = threading.Timer(WINDOW_S + _LATER_S, self.write_due)
        self._timer.daemon = True
        self._timer.start()


def _with_count(record: logging.LogRecord, left_out: int) -> logging.LogRecord:
    """Return the line with the number of lines like it that were left out, itself included."""
    if isinstance(record.msg, dict):
        record.msg = {**record.msg, "left_out": left_out}
    else:
        record.__dict__["left_out"] = left_out
    return record


def _keys(record: logging.LogRecord) -> tuple[Hashable, Hashable]:
    """Return a key for the line's event and one for the line itself."""
    event, line = record.msg, record.msg
    if isinstance(record.msg, dict):  # structlog's
        event = record.msg.get("event")
        line = {name: value for name, value in record.msg.items() if name != "timestamp"}
    else:
        # asyncio names the socket or task in further lines.
        event = str(event).partition("\n")[0]
        line = record.getMessage()
    source = (record.name, record.levelno)
    return (*source, str(event)[:_KEY_CHARS_MAX]), (*source, "line", str(line)[:_KEY_CHARS_MAX])
