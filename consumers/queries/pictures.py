"""The lane in which pictures of queries are decoded; texts never enter it.

Decoding has processes of its own, which give way to everything that answers texts, and limits far
below those of content: a client waits for the answer, and other pictures wait for the lane. The
waiting pictures are bounded in number and in bytes, and one that nobody awaits any more leaves at
once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from consumers.images.decoder_pool import BESIDE_QUERIES_NICE, DecodeLimits, DecoderPool
from contracts.errors import NotReady, RejectedRequest
from contracts.metrics import Metrics
from contracts.ports.encoder import Preprocess, RgbImage
from contracts.score import Vectors


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """The limits of decoding one picture, and of all that wait: their number and bytes.

    `nice` is added to the niceness of the decoding processes.
    """

    decode: DecodeLimits
    processes: int
    waiting_max: int
    waiting_bytes_max: int
    nice: int = BESIDE_QUERIES_NICE


@dataclass(slots=True, eq=False)
class _Encoding:
    """The task that encodes one picture, which all queries with the same picture await."""

    task: "asyncio.Task[Vectors]"
    waiters: int = 0


class QueryPictureLane:
    """The lane: `open` it when the model is known, and `close` it in the end."""

    def __init__(self, limits: PictureLimits, metrics: Metrics) -> None:
        self._limits = limits
        self._decoders: DecoderPool | None = None
        self._decided = asyncio.Event()
        self._turns = asyncio.Semaphore(limits.processes)
        self._encodings: dict[bytes, _Encoding] = {}
        self._waiting = self._bytes = self._pixel_bytes = 0
        self._encoded = asyncio.Event()
        metrics.queue_depth.labels("query_pictures").set_function(lambda: self._waiting)

    def open(self, preprocess: Preprocess) -> None:
        """Start to decode pictures; a second call changes nothing."""
        if not self._decided.is_set():
            self._decoders = DecoderPool(
                self._limits.processes, self._limits.decode, preprocess, nice=self._limits.nice
            )
            self._decided.set()

    def close(self) -> None:
        """End the processes, which blocks for some milliseconds; queries that wait get NotReady."""
        if self._decoders is not None:
            self._decoders.close()
        self._decided.set()

    async def encode_once(
        self, key: bytes, data: bytes, encode: Callable[[RgbImage], Awaitable[Vectors]]
    ) -> Vectors:
        """Return the vector that `encode` makes of the pixels of `data`.

        Queries that ask for the same `key` meanwhile share it. Raises RejectedRequest when too much
        waits, and what DecoderPool.decode raises.
        """
        encoding = self._encodings.get(key)
        if encoding is None:
            encoding = self._start(key, data, encode)
        encoding.waiters += 1
        try:
            return await asyncio.shield(encoding.task)
        finally:
            encoding.waiters -= 1
            if encoding.waiters == 0 and not encoding.task.done():
                encoding.task.cancel()
                self._forget(key, encoding)

    def _start(
        self, key: bytes, data: bytes, encode: Callable[[RgbImage], Awaitable[Vectors]]
    ) -> _Encoding:
        size = len(data)
        self._require_room(size)
        # Counted before the task runs, so that pictures of one turn of the loop see each other.
        self._waiting += 1
        self._bytes += size
        task = asyncio.create_task(self._vector(data, encode), name="picture of a query")
        encoding = self._encodings[key] = _Encoding(task)

        def ended(task: "asyncio.Task[Vectors]") -> None:
            self._waiting -= 1
            self._bytes -= size
            self._forget(key, encoding)
            if not task.cancelled():
                task.exception()  # marks it as retrieved, in case nobody waits any more

        task.add_done_callback(ended)
        return encoding

    def _require_room(self, size: int) -> None:
        limits = self._limits
        if self._waiting >= limits.waiting_max:
            raise RejectedRequest(
                "too_many_queries",
                f"query_pictures_max: limit {limits.waiting_max} pictures of queries waiting",
                status=429,
                field="image",
                limit=limits.waiting_max,
            )
        # A picture that waits alone may be larger, up to image_bytes_max.
        if self._waiting and self._bytes + size > limits.waiting_bytes_max:
            raise RejectedRequest(
                "too_many_queries",
                f"query_pictures_mb: limit {limits.waiting_bytes_max} bytes in all pictures of "
                f"queries that wait, got {size} more than the {self._bytes} that do",
                status=429,
                field="image",
                limit=limits.waiting_bytes_max,
                value=self._bytes + size,
            )

    async def _vector(
        self, data: bytes, encode: Callable[[RgbImage], Awaitable[Vectors]]
    ) -> Vectors:
        await self._decided.wait()
        if self._decoders is None:
            raise NotReady("shutting down")
        async with self._turns:
            # 80 KB may be 50 MB of pixels if the model takes any size.
            while self._pixel_bytes >= self._limits.waiting_bytes_max:
                self._encoded.clear()
                await self._encoded.wait()
            image = await self._decoders.decode(data)
            self._pixel_bytes += image.nbytes
        try:
            return await encode(image)
        finally:
            self._pixel_bytes -= image.nbytes
            self._encoded.set()

    def _forget(self, key: bytes, encoding: _Encoding) -> None:
        if self._encodings.get(key) is encoding:
            del self._encodings[key]
