"""Start a coroutine and see whether it waits: one that never waits needs no time limit."""

from collections.abc import Coroutine, Generator
from typing import Any


def run_until_blocked(work: Coroutine[Any, Any, None]) -> "SuspendedCoroutine | None":
    """Run a coroutine until it first waits, and return the rest of it, or None if it has ended."""
    try:
        return SuspendedCoroutine(work, work.send(None))
    except StopIteration:
        return None


class SuspendedCoroutine:
    """The rest of a coroutine that waits. It must be awaited in the task that began it."""

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    got = yield waits_for
                except BaseException as error:
                    waits_for = self._work.throw(error)
                else:
                    waits_for = self._work.send(got)
        except StopIteration:
            return
