"""The query encoder: it turns a query's text or picture into one vector, in a child process.

It is a process of its own because importing torch takes seconds, and the model's Python code would
slow every search and socket on the same interpreter. Batches need no timer: one batch runs, and the
next one forms meanwhile. Vectors are kept in an LRU cache, so that equal texts have equal vectors.
Pictures are decoded before they come here (consumers/queries/pictures.py).
"""

import asyncio
import hashlib
import multiprocessing
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from time import perf_counter
from typing import Any, NoReturn

from cachetools import LRUCache

from consumers.queries import encoder_process
from consumers.queries.encoder_process import Answer, QueryInput, QueryModel
from consumers.queries.pictures import PictureLimits, QueryPictureLane
from consumers.queries.turns import PendingQuery, QueryTurns
from contracts.errors import NotReady, RejectedRecord, RejectedRequest
from contracts.metrics import Metrics
from contracts.ports.encoder import RgbImage
from contracts.prompts import PLAIN, fill_templates
from contracts.score import Vectors
from contracts.supervision.processes import Part, exit_reason

__all__ = ["PictureLimits", "ProcessQueryEncoder", "QueryModel"]

# Recent texts that are remembered, so that another space can be asked the same.
_RECENT = 256
# Hashing more than this takes longer than handing it to a thread.
_HASHED_AT_ONCE_BYTES = 64 * 1024


class ProcessQueryEncoder:
    """The QueryEncoder port over a child process; `run` must be running."""

    def __init__(
        self,
        model: QueryModel,
        metrics: Metrics,
        pictures: PictureLimits,
        *,
        batch_max: int,
        queue_max: int,
        cache_max: int,
        picture_turn_s: float = 0.025,
        encode_timeout_s: float = 60.0,
        space: str = "",
        templates: Sequence[str] = PLAIN,
        part: Part | None = None,
        prepare: Callable[[], None] = encoder_process.identity,
    ) -> None:
        self._model = model
        self._prepare = prepare
        self._metrics = metrics
        self._queue_max = queue_max
        self._encode_timeout_s = encode_timeout_s
        self._space = space
        self._templates = templates
        self._cache: LRUCache[bytes, Vectors] = LRUCache(cache_max)
        self._pictures = QueryPictureLane(pictures, metrics)
        self._turns = QueryTurns(batch_max=batch_max, picture_turn_s=picture_turn_s)
        metrics.queue_depth.labels("query").set_function(lambda: len(self._turns))
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._arrived = asyncio.Event()
        self._pool: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self.part = part or Part("query", model.model)
        self._ended = False
        self.loaded = asyncio.Event()
        self._logit_scale = 0.0

    async def query(self, text: str) -> Vectors:
        """Return the vector of a query's text, (dim,) float16: the mean over all templates.

        Raises NotReady while there is no encoder, and RejectedRequest when too many queries wait.
        """
        normal = " ".join(text.split())
        self._recent.append(normal)
        return await self._encode_text(fill_templates([normal], self._templates))

    async def text(self, text: str) -> Vectors:
        """Return the vector of a text without templates. Raises what `query` raises."""
        return await self._encode_text([" ".join(text.split())])

    def recent(self) -> list[str]:
        """Return the texts of recent queries, each once, the latest last."""
        return list(dict.fromkeys(reversed(self._recent)))[::-1]

    async def logit_scale(self) -> float:
        """Return the factor of cosines before a softmax, once the model is loaded."""
        await self.loaded.wait()
        return self._logit_scale

    async def _encode_text(self, its_prompts: list[str]) -> Vectors:
        began = perf_counter()
        key = _key(self._space, its_prompts)
        if (cached := self._look_up(key, "text", began)) is not None:
            return cached
        if self._turns.texts >= self._queue_max:
            raise RejectedRequest(
                "too_many_queries",
                f"query_queue_max: limit {self._queue_max} queries waiting to be encoded",
                status=429,
                limit=self._queue_max,
            )
        vector = await self._encode(key, its_prompts)
        self._metrics.query_encode_seconds.labels("text", "miss").observe(perf_counter() - began)
        return vector

    async def image(self, data: bytes) -> Vectors:
        """Return the vector of a picture. Raises what `query` raises, and RejectedRecord."""
        began = perf_counter()
        if len(data) <= _HASHED_AT_ONCE_BYTES:
            key = _key(self._space, data)
        else:
            key = await asyncio.to_thread(_key, self._space, data)
        if (cached := self._look_up(key, "image", began)) is not None:
            return cached

        async def encode(image: RgbImage) -> Vectors:
            return await self._encode(key, image)

        vector = await self._pictures.encode_once(key, data, encode)
        self._metrics.query_encode_seconds.labels("image", "miss").observe(perf_counter() - began)
        return vector

    def _look_up(self, key: bytes, input_type: str, began: float) -> Vectors | None:
        cached = self._cache.get(key)
        if cached is not None:
            self._metrics.query_encode_seconds.labels(input_type, "hit").observe(
                perf_counter() - began
            )
        return cached

    async def _encode(self, key: bytes, asked: QueryInput) -> Vectors:
        if self._ended:
            raise NotReady("shutting down")
        if self.part.failures > 1 and not self.part.running:
            # A query waits for one restart; after a second failure it is refused.
            raise NotReady(f"the query encoder is down: {self.part.reason}")
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._turns.add(PendingQuery(key, asked, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Start the child, then encode batches until cancelled; a child that ends is replaced.

        Raises the error of the first start. Later starts are tried again, whatever they raise.
        """
        try:
            while True:
                try:
                    await self._work()
                except BrokenProcessPool:
                    reason = exit_reason(self._stop_pool())
                except Exception as error:
                    self._stop_pool()
                    if not self.loaded.is_set():
                        raise
                    reason = str(error) or repr(error)
                self._discard_child(f"the query encoder restarts: {reason}")
                await self.part.wait_before_restart(reason)
        finally:
            # A later query, such as one whose picture was just decoded, would wait for ever.
            self._ended = True
            self._discard_child("shutting down")
            self._pictures.close()
            self._stop_pool()

    async def _work(self) -> NoReturn:
        loaded = await self._call(encoder_process.warm_up)
        self._logit_scale = loaded.logit_scale
        self._pictures.open(loaded.preprocess)
        self.loaded.set()
        self.part.mark_running()
        process, loop = self._process, asyncio.get_running_loop()
        assert process is not None
        # A child that dies while no query waits must be noticed too.
        loop.add_reader(process.sentinel, self._arrived.set)
        try:
            await self._serve(process)
        finally:
            loop.remove_reader(process.sentinel)

    async def _serve(self, process: BaseProcess) -> NoReturn:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if not process.is_alive():
                raise BrokenProcessPool
            while batch := self._turns.take_batch():
                await self._encode_batch(batch)

    async def _encode_batch(self, batch: list[PendingQuery]) -> None:
        began = perf_counter()
        try:
            results = await self._encode_in_child([waiting.asked for waiting in batch])
        except BaseException:
            # These queries fail together with those that wait.
            for waiting in batch:
                self._turns.add(waiting)
            raise
        self._turns.note_duration(batch, perf_counter() - began)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, dict):
                waiting.future.set_exception(RejectedRecord(**result))
                continue
            self._remember(waiting.key, result)
            waiting.future.set_result(result)

    async def _encode_in_child(self, asked: list[QueryInput]) -> list[Answer]:
        """Encode in the child. Raises TimeoutError if it hangs, so that it is replaced."""
        limit_s = self._encode_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                results: list[Answer] = await self._call(encoder_process.encode_all, asked)
                return results
        except TimeoutError:
            raise TimeoutError(
                f"it did not answer for query_encode_timeout_s={limit_s:g}"
            ) from None

    def _remember(self, key: bytes, vector: Vectors) -> None:
        if self._cache.maxsize:
            self._cache[key] = vector

    async def _call(self, function: Any, *arguments: Any) -> Any:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1,
                # spawn: a fork of a process with threads and an event loop is not safe.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=encoder_process.load,
                initargs=(self._model, self._prepare),
            )
        called = asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        # The pool does not show its exit code.
        self._process = next(iter(self._pool._processes.values()), None)
        return await called

    def _stop_pool(self) -> int | None:
        """End the child if it lives, and return its exit code."""
        process, self._process = self._process, None
        if self._pool is not None:
            if process is not None:
                process.kill()  # a stopped process would not notice any other signal
            # This waits for that child only, and gives its semaphores back.
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        return process.exitcode if process is not None else None

    def _discard_child(self, why: str) -> None:
        for waiting in self._turns.clear():
            if not waiting.future.done():
                waiting.future.set_exception(NotReady(why))


def _key(space: str, asked: list[str] | bytes) -> bytes:
    """Return a hash of all that the vector comes from.

    Each part has its length, so that `ab c` differs from `a bc`.
    """
    parts = asked if isinstance(asked, list) else [asked]
    found = hashlib.blake2b(digest_size=16)
    for part in (space, "text" if isinstance(asked, list) else "image", *parts):
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8))
        found.update(data)
    return found.digest()
