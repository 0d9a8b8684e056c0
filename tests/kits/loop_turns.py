"""A server in a thread, whose event loop measures how much processor time its turns take.

A turn is everything between two looks at the sockets: all other clients that sent something wait
for that time. The thread's own clock measures it, so that other processes do not count.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import thread_time
from typing import Any, TypeVar

from tests.kits.api_kit import Kit, serving
from tidelens.process import gc_pauses

_Result = TypeVar("_Result")


class Turns(selectors.DefaultSelector):
    """A selector that measures the turns between its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.longest_s = 0.0
        self._began: float | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        if self._began is not None:
            self.longest_s = max(self.longest_s, thread_time() - self._began)
        found = super().select(timeout)
        self._began = thread_time()
        return found


class Served:
    """A node that is served, and a way into its loop."""

    def __init__(self, kit: Kit, port: int, turns: Turns) -> None:
        self.kit = kit
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._turns = turns
        self._loop = asyncio.get_running_loop()

    def call(self, work: Callable[[], _Result]) -> _Result:
        """Call `work` in a turn of the server's loop, and return what it returns."""

        async def working() -> _Result:
            return work()

        return asyncio.run_coroutine_threadsafe(working(), self._loop).result(60)

    def longest_ms(self) -> float:
        """Return the longest turn since the last call."""
        # In a turn of its own, so that the one before has ended.
        self.call(lambda: None)

        def taken() -> float:
            longest_s, self._turns.longest_s = self._turns.longest_s, 0.0
            return 1000 * longest_s

        return self.call(taken)


@contextmanager
def served(make: Callable[[], Kit]) -> Iterator[Served]:
    """`make` is called in the server's thread."""
    turns = Turns()
    found: list[Served] = []
    ready = threading.Event()
    stop: list[Callable[[], Any]] = []

    async def run() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        kit = make()
        async with serving(kit.app, kit.settings) as port:
            # As a node does: a collection of all that pytest has imported is not one of its turns.
            gc_pauses.forget_imports()
            found.append(Served(kit, port, turns))
            ready.set()
            await stopped.wait()

    def serve() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
                runner.run(run())
        finally:
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(60)
    try:
        yield found[0]
    finally:
        stop[0]()
        thread.join(60)
