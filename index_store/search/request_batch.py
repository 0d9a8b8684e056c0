"""Batches of requests: one batch runs, and the requests that arrive meanwhile form the next one.

A batch of searches is one call of Faiss. A thread for each query would cost as much as the query
itself, and the threads would compete for the interpreter lock. There is no timer: a request that
arrives while nothing runs is answered in the next turn of the event loop, together with the other
requests of this turn.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_BATCH_MAX = 64

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class RequestBatcher(Generic[Request, Reply]):
    """A batcher that calls `work` with a batch of requests, and hands each its own reply.

    `work` returns one reply for each request, in their order. It runs in a thread, or on the event
    loop if `is_quick` says of the batch that handing it to a thread would take as long.
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
        """Return the number of requests whose batch has not begun."""
        return len(self._waiting)

    async def ask(self, asked: Request) -> Reply:
        """Return the reply to one request. Raises what `work` raises for it."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        # A caller that is cancelled before its batch begins is left out of it.
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
        try:
            replies = await self._replies([asked for asked, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                [(_, future)] = batch
                if not future.done():
                    future.set_exception(error)
                return
            # Only some requests of the batch are at fault: answer each by itself.
            for one in batch:
                await self._answer([one])
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    async def _replies(self, requests: Sequence[Request]) -> Sequence[Reply]:
        if self._is_quick(requests):
            return self._work(requests)
        return await asyncio.to_thread(self._work, requests)
