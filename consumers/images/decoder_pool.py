"""The decoding of pictures to a model's pixels in processes that strangers' pictures may kill.

A codec that crashes, hangs or takes too much memory costs the picture that it was given, and a new
process. A thread here waits for each process. Bytes and pixels go through shared memory, which
saves copies, and a pipe never fills up.
"""

import asyncio
import contextlib
import fcntl
import mmap
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import orjson

from consumers.images.decoder_process import ANSWER, REQUEST, SIZE, AnswerType, DecodeLimits
from contracts.errors import NotReady, RejectedRecord
from contracts.ports.encoder import Preprocess, RgbImage
from contracts.supervision.children import module_command

__all__ = ["BESIDE_QUERIES_NICE", "DecodeLimits", "DecoderPool"]

# The niceness of decoders in a node. They come before the bulk encoder, at 19, and after the
# processes that answer queries, which leave them a tenth of a core that both want.
BESIDE_QUERIES_NICE = 10

# A busy machine must not make good pictures bad, so the limit is in processor time. By the clock, a
# picture may take this many times as long, in case the process waits for ever.
_CLOCK = 6
_LOOK_MS = 100
_START_S = 60
# Shared memory beyond this is given back to the system after the picture.
_KEPT_BYTES = 8 * 1024 * 1024
# A preprocess may return more bytes than the picture had.
_SHARED_BYTES_MIN = 16 * 1024 * 1024


class DecoderPool:
    """A pool of decoder processes, each of which is started when it is first needed.

    `nice` is added to the niceness that they inherit. `close` it in the end.
    """

    def __init__(
        self, processes: int, limits: DecodeLimits, preprocess: Preprocess, *, nice: int = 0
    ) -> None:
        self._limits = limits
        self._start = pickle.dumps((limits, preprocess, nice))
        self._idle: queue.SimpleQueue[_DecoderProcess] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._children: set[_DecoderProcess] = set()
        self._closed = False
        # Only these threads start children: `die_with_parent` is about the thread that did.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")

    async def decode(self, data: bytes) -> RgbImage:
        """Return the pixels of a picture, as `preprocess` makes them of those of decode_image.

        Raises RejectedRecord with a code of decode_image, `image_crashed`, `image_too_slow` or
        `image_too_much_memory`. Raises NotReady, which says nothing about the picture, when no
        process could be started or the pool was closed. When it is cancelled, it has the process
        killed, and returns once its thread is free for the next picture.
        """
        unwanted = threading.Event()
        decoding = self._submit(data, unwanted)
        try:
            return await asyncio.wrap_future(decoding)
        except asyncio.CancelledError:
            unwanted.set()
            await _wait_for_end(decoding)
            raise

    def decode_now(self, data: bytes) -> RgbImage:
        """Do what `decode` does, but block until it is done."""
        return self._submit(data, threading.Event()).result()

    def close(self) -> None:
        """Kill the processes, also those that decode, and wait for their ends. This blocks."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in list(self._children):
            self._forget(child)

    def _submit(self, data: bytes, unwanted: threading.Event) -> "Future[RgbImage]":
        with self._lock:  # an executor that was shut down raises RuntimeError
            if self._closed:
                raise _closed()
            return self._threads.submit(self._decode, data, unwanted)

    def _decode(self, data: bytes, unwanted: threading.Event) -> RgbImage:
        if len(data) > self._limits.bytes_max:  # it would not fit into the memory
            raise RejectedRecord(
                "image_too_large_bytes",
                f"the picture has {len(data)} bytes, the limit is {self._limits.bytes_max}",
                field="image",
                limit=self._limits.bytes_max,
                value=len(data),
            )
        child = self._take_child()
        try:
            return child.decode(data, unwanted)
        except RejectedRecord as rejection:
            if self._closed and rejection.code == "image_crashed":
                raise _closed() from None
            raise
        finally:
            if child.usable:
                self._idle.put(child)
            else:
                self._forget(child)

    def _take_child(self) -> "_DecoderProcess":
        with contextlib.suppress(queue.Empty):
            while True:
                child = self._idle.get_nowait()
                if child.lives:
                    return child
                # The system or the operator killed it while idle: this picture is not the cause.
                self._forget(child)
        with self._lock:
            if self._closed:
                raise _closed()
            try:
                child = _DecoderProcess(self._limits)
            except OSError as error:
                raise NotReady(f"a decoder cannot be started: {error}") from error
            self._children.add(child)
        if not child.wait_until_ready(self._start):
            self._forget(child)
            raise (
                _closed() if self._closed else NotReady("a decoder ended before its first picture")
            )
        return child

    def _forget(self, child: "_DecoderProcess") -> None:
        with self._lock:
            self._children.discard(child)
        child.end()


async def _wait_for_end(work: "Future[RgbImage]") -> None:
    """Wait until a thread is done with `work`, whatever its result is."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def notify(_: "Future[RgbImage]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(ended.set)

    work.add_done_callback(notify)
    await ended.wait()


def _closed() -> NotReady:
    return NotReady("the decoders are closed")


class _DecoderProcess:
    """One process, the memory shared with it, and the pipes to it. It has one caller at a time."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self.usable = True
        self._room = max(limits.bytes_max, 3 * limits.pixels_max, _SHARED_BYTES_MIN)
        size = self._room + SIZE.size
        fd = os.memfd_create("tidelens-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)  # takes no memory before it is written to
            # A child that shrank it would have this process killed by SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._shared = mmap.mmap(fd, size)
            try:
                self._process = _start_process(fd, size)
            except BaseException:
                self._shared.close()
                raise
        finally:
            os.close(fd)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._answered = select.poll()  # select.select takes no file number above 1023
        self._answered.register(self._answers, select.POLLIN)

    def wait_until_ready(self, start: bytes) -> bool:
        """Wait until the process is ready for pictures, and return whether it is. This blocks."""
        self._send(start)
        if not self._answered.poll(_START_S * 1000):
            return False
        return len(self._answers.read(ANSWER.size)) == ANSWER.size

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def decode(self, data: bytes, unwanted: threading.Event) -> RgbImage:
        # It is usable again once the answer is parsed.
        self.usable = False
        self._shared[: len(data)] = data
        SIZE.pack_into(self._shared, self._room, 0)
        used = self._cpu_s()
        self._send(REQUEST.pack(len(data)))
        self._await_answer(used, unwanted)
        answer_type, first, second = self._read()
        result, size = self._parse_answer(answer_type, first, second)
        if max(len(data), size) > _KEPT_BYTES:
            self._shared.madvise(mmap.MADV_REMOVE)
        self.usable = True
        if isinstance(result, RejectedRecord):
            raise result
        return result

    def _parse_answer(
        self, answer_type: int, first: int, second: int
    ) -> tuple[RgbImage | RejectedRecord, int]:
        """Return the pixels or the rejection, and the number of shared bytes that it takes."""
        if answer_type == AnswerType.PIXELS and 0 < (size := 3 * first * second) <= self._room:
            pixels = np.frombuffer(self._shared, np.uint8, size).reshape(first, second, 3)
            return _detached_copy(pixels), size
        if answer_type == AnswerType.REJECTED and first <= self._room:
            return RejectedRecord(**orjson.loads(self._shared[:first])), first
        if answer_type == AnswerType.MEMORY:
            limit = self._limits.memory_bytes_max
            return RejectedRecord(
                "image_too_much_memory",
                f"decoding the picture takes more than the limit of {limit} bytes of memory",
                field="image",
                limit=limit,
            ), 0
        raise self._crashed()

    def _await_answer(self, used: float, unwanted: threading.Event) -> None:
        """Wait for an answer or the end of the process, within the limits of time.

        `used` is the processor time, in seconds, that the process had before the picture.
        """
        clock = _CLOCK * self._limits.seconds_max
        began = time.monotonic()
        while not self._answered.poll(_LOOK_MS):
            if unwanted.is_set():
                self.kill()
                raise NotReady("nobody waits for the picture any more")
            (pixels,) = SIZE.unpack_from(self._shared, self._room)
            limit = self._limits.seconds(pixels)
            spent, passed = self._cpu_s() - used, time.monotonic() - began
            if spent > limit or passed > clock:
                self.kill()
                raise RejectedRecord(
                    "image_too_slow",
                    f"decoding the picture took {spent:.1f} s of processor time in {passed:.1f} s, "
                    f"the limit is {limit:g} s for its {pixels} pixels, and {clock:g} s by the "
                    "clock",
                    field="image",
                    limit=limit,
                )

    def _cpu_s(self) -> float:
        with contextlib.suppress(OSError):  # it died
            # clock_getcpuclockid(3), which Python lacks: CPUCLOCK_SCHED of a process.
            return time.clock_gettime((~self._process.pid << 3) | 2)
        return 0.0

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died, which is seen when the answer is read
            self._requests.write(message)

    def _read(self) -> tuple[int, int, int]:
        answer = self._answers.read(ANSWER.size)  # one write of the child
        if len(answer) < ANSWER.size:
            raise self._crashed()
        answer_type, first, second = ANSWER.unpack(answer)
        return answer_type, first, second

    def _crashed(self) -> RejectedRecord:
        self.kill()  # its answers have ended, so it is of no use
        code = self._process.wait()
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return RejectedRecord(
            "image_crashed", f"the decoder died of the picture ({why})", field="image"
        )

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()
        self._shared.close()


def _detached_copy(pixels: RgbImage) -> RgbImage:
    """Copy pixels to memory outside the heap, which hundreds of them would fragment."""
    copied = np.frombuffer(mmap.mmap(-1, pixels.size), np.uint8).reshape(pixels.shape)
    copied[:] = pixels
    return copied


def _start_process(fd: int, size: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        module_command("consumers.images.decoder_process", str(fd), str(size), str(os.getpid())),
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[fd],
        # A Ctrl-C must not reach it. It stays in the session of this process: where Linux shares
        # processors among sessions (autogroup), niceness counts only within one.
        process_group=0,
        # Strangers' pictures run there, so it gets no secrets of this process.
        env={
            "PATH": os.environ.get("PATH", ""),
            "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",  # each would take address space
            # Otherwise glibc returns each picture's memory, and page faults cost the next 1.7 ms.
            "MALLOC_TRIM_THRESHOLD_": str(32 * 1024 * 1024),
            "MALLOC_MMAP_THRESHOLD_": str(16 * 1024 * 1024),
        },
    )
