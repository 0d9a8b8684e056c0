"""Query encoding: a query's text or picture to one vector, in a process of its own.

A child process, because importing torch takes seconds and the model's Python would slow every
search and socket on the same interpreter. Batching without a timer: one batch runs, the next one
forms meanwhile. Answers are kept in an LRU cache; equal texts then give the very same vector.
"""

import asyncio
import hashlib
import multiprocessing
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from contracts.errors import ModelMissing, NotReady, RejectedRecord, RejectedRequest
from contracts.metrics import Metrics
from contracts.ports import Encoder
from contracts.prompts import PLAIN, prompts
from contracts.score import Vectors
from contracts.zero_shot import query_vector

if TYPE_CHECKING:
    from consumers.decoding import Decoders

log = structlog.get_logger(__name__)

# Texts asked lately, to ask another space the same.
_RECENT = 256

# A text in each of its templates, or a picture's bytes.
_Asked = list[str] | bytes


@dataclass(frozen=True, slots=True)
class QueryModel:
    """What the child process loads, and the limits it decodes pictures under."""

    model: str
    threads: int
    precision: str | None
    remote_code: bool
    image_bytes_max: int
    image_pixels_max: int
    decode_seconds_max: float
    decode_memory_bytes_max: int


@dataclass(slots=True)
class _Waiting:
    key: bytes
    asked: "_Asked"
    future: "asyncio.Future[Vectors]"


class ProcessQueryEncoder:
    """The QueryEncoder port over a child process; `run` must be running."""

    def __init__(
        self,
        model: QueryModel,
        metrics: Metrics,
        *,
        batch_max: int,
        queue_max: int,
        cache_max: int,
        space: str = "",
        templates: Sequence[str] = PLAIN,
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._cache_max = cache_max
        self._space = space
        self._templates = templates
        self._cache: OrderedDict[bytes, Vectors] = OrderedDict()
        self._waiting: list[_Waiting] = []
        metrics.queue_depth.labels("query").set_function(lambda: len(self._waiting))
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._arrived = asyncio.Event()
        self._pool: ProcessPoolExecutor | None = None
        self.loaded = asyncio.Event()
        self._logit_scale = 0.0

    async def query(self, text: str) -> Vectors:
        normal = " ".join(text.split())
        self._recent.append(normal)
        return await self._encode("text", prompts([normal], self._templates))

    async def text(self, text: str) -> Vectors:
        return await self._encode("text", [" ".join(text.split())])

    def recent(self) -> list[str]:
        """Queries' texts asked lately, each once, the latest last."""
        return list(dict.fromkeys(reversed(self._recent)))[::-1]

    async def image(self, data: bytes) -> Vectors:
        return await self._encode("image", data)

    async def logit_scale(self) -> float:
        await self.loaded.wait()
        return self._logit_scale

    async def _encode(self, kind: str, asked: _Asked) -> Vectors:
        began = perf_counter()
        key = _key(self._space, asked)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            self._metrics.query_encode_seconds.labels(kind, "hit").observe(perf_counter() - began)
            return cached
        if len(self._waiting) >= self._queue_max:
            raise RejectedRequest(
                "too_many_queries",
                f"query_queue_max: limit {self._queue_max} queries waiting to be encoded",
                status=429,
                limit=self._queue_max,
            )
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(key, asked, future))
        self._arrived.set()
        vector = await future
        self._metrics.query_encode_seconds.labels(kind, "miss").observe(perf_counter() - began)
        return vector

    async def run(self) -> None:
        """Start the child, then encode batches until cancelled; a child that dies is replaced."""
        try:
            while True:
                try:
                    self._logit_scale = await self._call(_warm)
                    self.loaded.set()
                    await self._serve()
                except BrokenProcessPool:
                    log.error("the query encoder's process died; starting another")
                    self._drop("the query encoder restarts")
                    await asyncio.sleep(1)
        finally:
            self._drop("shutting down")
            self._stop_pool()

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._next_batch():
                await self._encode_batch(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Those that wait longest, as many as fit; one alone may be more than fits."""
        # Requests that nobody awaits any more are dropped before they cost anything.
        self._waiting = [waiting for waiting in self._waiting if not waiting.future.done()]
        count = inputs = 0
        for waiting in self._waiting:
            inputs += len(waiting.asked) if isinstance(waiting.asked, list) else 1
            if count and inputs > self._batch_max:
                break
            count += 1
        batch = self._waiting[:count]
        del self._waiting[:count]
        return batch

    async def _encode_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            results = await self._call(_encode_all, [w.asked for w in batch])
        except BrokenProcessPool:
            self._waiting.extend(batch)
            raise
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, NotReady):
                waiting.future.set_exception(result)
                continue
            if isinstance(result, dict):
                waiting.future.set_exception(RejectedRecord(**result))
                continue
            self._remember(waiting.key, result)
            waiting.future.set_result(result)

    def _remember(self, key: bytes, vector: Vectors) -> None:
        self._cache[key] = vector
        while len(self._cache) > self._cache_max:
            self._cache.popitem(last=False)

    async def _call(self, function: Any, *arguments: Any) -> Any:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1,
                # spawn: a fork of a process with threads and an event loop is not safe.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_load,
                initargs=(self._model,),
            )
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, function, *arguments)
        except BrokenProcessPool:
            self._stop_pool()
            raise

    def _stop_pool(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
            # Waits for the terminated child only, and gives its semaphores back.
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _drop(self, why: str) -> None:
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(NotReady(why))
        self._waiting.clear()


def _key(space: str, asked: _Asked) -> bytes:
    """Of all that the vector comes from. Lengths keep apart what only joins to the same."""
    parts = asked if isinstance(asked, list) else [asked]
    found = hashlib.blake2b(digest_size=16)
    for part in (space, "text" if isinstance(asked, list) else "image", *parts):
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8))
        found.update(data)
    return found.digest()


# In the child process from here on.

# A vector, or the members of a rejection (errors do not pickle well).
_Answer = Vectors | dict[str, Any] | NotReady

_encoder: Encoder | None = None
_refused: ModelMissing | None = None
_decoders: "Decoders | None" = None


def _load(model: QueryModel) -> None:
    """The child's start: end with the parent, then load the model."""
    global _encoder, _decoders, _refused
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from consumers.decoding import DecodeLimits, Decoders
    from consumers.encoders import open_encoder

    try:
        _encoder = open_encoder(
            model.model,
            threads=model.threads,
            precision=model.precision,
            remote_code=model.remote_code,
        )
    except ModelMissing as error:
        # Raised here it would be a stack trace, and the child be started again for ever.
        _refused = error
        return
    limits = DecodeLimits(
        model.image_bytes_max,
        model.image_pixels_max,
        model.decode_seconds_max,
        model.decode_memory_bytes_max,
    )
    _decoders = Decoders(1, limits, _encoder.preprocess)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(0)


def _warm() -> float:
    """The model's logit scale, once it is loaded and has run once for each kind of input.

    Raises ModelMissing where it was refused.
    """
    if _refused is not None:
        raise ModelMissing(str(_refused))
    assert _encoder is not None
    _encoder.encode_texts(["warm up"])
    _encoder.encode_images([_encoder.preprocess(np.zeros((64, 64, 3), np.uint8))])
    return _encoder.logit_scale


def _encode_all(inputs: Sequence[_Asked]) -> list[_Answer]:
    """What fails together is tried one by one, so that one query cannot take others with it."""
    try:
        return _encode_together(inputs)
    except Exception:
        return [_encode_alone(asked) for asked in inputs]


def _encode_alone(asked: _Asked) -> _Answer:
    try:
        return _encode_together([asked])[0]
    except Exception as error:
        return RejectedRecord("encode_failed", f"the model failed: {error!r}").members()


def _encode_together(inputs: Sequence[_Asked]) -> list[_Answer]:
    """Raises whatever the model does."""
    assert _encoder is not None and _decoders is not None
    results: list[_Answer] = [{} for _ in inputs]
    texts = [(i, asked) for i, asked in enumerate(inputs) if isinstance(asked, list)]
    rows = _encoder.encode_texts([prompt for _, its_prompts in texts for prompt in its_prompts])
    start = 0
    for i, its_prompts in texts:
        its = rows[start : start + len(its_prompts)]
        start += len(its_prompts)
        try:
            results[i] = query_vector(its)
        except ValueError as error:
            results[i] = RejectedRecord("zero_vector", f"text: {error}", field="text").members()
    images = []
    for i, asked in enumerate(inputs):
        if isinstance(asked, list):
            continue
        try:
            images.append((i, _decoders.decode_now(asked)))
        except RejectedRecord as rejection:
            results[i] = rejection.members()
        except NotReady as error:
            results[i] = error
    rows = _encoder.encode_images([picture for _, picture in images])
    for (i, _), vector in zip(images, rows, strict=True):
        results[i] = vector
    return results
