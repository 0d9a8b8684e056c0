"""One batch running and one waiting: what is asked while others are answered goes together.

A thread for each query costs as much as the query, and they fight for the interpreter; a batch is
one call of Faiss. There is no timer: what finds nothing running runs at the loop's next turn, with
whatever else was asked in this one.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_BATCH_MAX = 64

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class RequestBatcher(Generic[Request, Reply]):
    """Runs `work` on a batch of what was asked; one answer for each.

    In a thread, or on the loop where `is_quick` says that handing it over would take as long.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Request]], Sequence[Reply]],
        is_quick: Callable[[Sequence[Request]], bool] = lambda _: False,
    ) -> None:
        self._work = work
        self._is_quick = is_quick
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._running: asyncio.Task[None] | None = None

    def waiting(self) -> int:
        """Those whose batch has not begun."""
        return len(self._waiting)

    async def ask(self, asked: Request) -> Reply:
        """Raises what `work` raises for it."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        # Whoever gives up is left out, if its batch has not begun.
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
                batch = [(asked, future) for asked, future in batch if not future.done()]
                if batch:
                    await self._answer(batch)
        finally:
            self._running = None

    async def _answer(self, batch: Sequence[tuple[Request, asyncio.Future[Reply]]]) -> None:
        work = [asked for asked, _ in batch]
        try:
            if self._is_quick(work):
                answers = self._work(work)
            else:
                answers = await asyncio.to_thread(self._work, work)
        except Exception as error:
            if len(batch) > 1:
                # It was one of them: the others have their answers, each by itself.
                for one in batch:
                    await self._answer([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
