"""Pictures' bytes to a model's pixels, in processes that strangers' pictures may kill.

A codec that crashes, hangs or eats memory costs the picture it was given, and a new process. Each
process is waited for by a thread here. Bytes and pixels go through memory that both see, which
spares copies, and a pipe never fills up.
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

# The niceness of decoders in a node: above the bulk encoder's 19 in priority and below what answers
# queries, so that of a core that both want they get a tenth.
BESIDE_QUERIES_NICE = 10

# A busy machine must not make good pictures bad: the limit is in processor time, and by the clock
# only for what waits for ever.
_CLOCK = 6
_LOOK_MS = 100
_START_S = 60
# More than this of the shared memory is given back to the system after the picture.
_KEPT_BYTES = 8 * 1024 * 1024
# A preprocess may make more of a picture than there was.
_SHARED_BYTES_MIN = 16 * 1024 * 1024


class DecoderPool:
    """So many processes, each started when it is first needed. Close it: that blocks.

    `nice` is added to the niceness that they inherit.
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
        # Children are started by these threads and no others: see `die_with_parent`.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")

    async def decode(self, data: bytes) -> RgbImage:
        """The pixels, as `preprocess` makes them of what decode_image makes.

        Raises RejectedRecord: that of decode_image, `image_crashed`, `image_too_slow` or
        `image_too_much_memory`. NotReady says nothing about the picture: no process could be
        started, or the decoders were closed. Cancelled, it has the process killed, and returns
        when that is free for the next picture.
        """
        unwanted = threading.Event()
        decoding = self._submitted(data, unwanted)
        try:
            return await asyncio.wrap_future(decoding)
        except asyncio.CancelledError:
            unwanted.set()
            await _end(decoding)
            raise

    def decode_now(self, data: bytes) -> RgbImage:
        """The same, blocking."""
        return self._submitted(data, threading.Event()).result()

    def close(self) -> None:
        """Kill and reap the processes, also those at work."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in list(self._children):
            self._forget(child)

    def _submitted(self, data: bytes, unwanted: threading.Event) -> "Future[RgbImage]":
        with self._lock:  # an executor that was shut down has an error of its own
            if self._closed:
                raise _closed()
            return self._threads.submit(self._decode, data, unwanted)

    def _decode(self, data: bytes, unwanted: threading.Event) -> RgbImage:
        if len(data) > self._limits.bytes_max:  # before it is copied to where it would not fit
            raise RejectedRecord(
                "image_too_large_bytes",
                f"the picture has {len(data)} bytes, the limit is {self._limits.bytes_max}",
                field="image",
                limit=self._limits.bytes_max,
                value=len(data),
            )
        child = self._borrowed()
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

    def _borrowed(self) -> "_DecoderProcess":
        with contextlib.suppress(queue.Empty):
            while True:
                child = self._idle.get_nowait()
                if child.lives:
                    return child
                # Killed while idle, by the system or its operator: not this picture's fault.
                self._forget(child)
        with self._lock:
            if self._closed:
                raise _closed()
            try:
                child = _DecoderProcess(self._limits)
            except OSError as error:
                raise NotReady(f"a decoder cannot be started: {error}") from error
            self._children.add(child)
        if not child.started(self._start):
            self._forget(child)
            raise (
                _closed() if self._closed else NotReady("a decoder ended before its first picture")
            )
        return child

    def _forget(self, child: "_DecoderProcess") -> None:
        with self._lock:
            self._children.discard(child)
        child.end()


async def _end(work: "Future[RgbImage]") -> None:
    """Wait until a thread is done with it, whatever came of it."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def tell(_: "Future[RgbImage]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop did not wait for us
            loop.call_soon_threadsafe(ended.set)

    work.add_done_callback(tell)
    await ended.wait()


def _closed() -> NotReady:
    return NotReady("the decoders are closed")


class _DecoderProcess:
    """One process, the memory shared with it, and the pipes to it. One caller at a time."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self.usable = True
        self._room = max(limits.bytes_max, 3 * limits.pixels_max, _SHARED_BYTES_MIN)
        size = self._room + SIZE.size
        fd = os.memfd_create("tidelens-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)  # takes no memory before it is written to
            # A child gone wild that shrank it would have us killed by SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._shared = mmap.mmap(fd, size)
            try:
                self._process = _started(fd, size)
            except BaseException:
                self._shared.close()
                raise
        finally:
            os.close(fd)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._answered = select.poll()  # select.select takes no file number above 1023
        self._answered.register(self._answers, select.POLLIN)

    def started(self, start: bytes) -> bool:
        """Whether it is ready for pictures; blocks until then."""
        self._send(start)
        if not self._answered.poll(_START_S * 1000):
            return False
        return len(self._answers.read(ANSWER.size)) == ANSWER.size

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def decode(self, data: bytes, unwanted: threading.Event) -> RgbImage:
        # Until the answer is understood.
        self.usable = False
        self._shared[: len(data)] = data
        SIZE.pack_into(self._shared, self._room, 0)
        used = self._cpu_s()
        self._send(REQUEST.pack(len(data)))
        self._await_answer(used, unwanted)
        kind, first, second = self._read()
        result, size = self._parse_answer(kind, first, second)
        if max(len(data), size) > _KEPT_BYTES:
            self._shared.madvise(mmap.MADV_REMOVE)
        self.usable = True
        if isinstance(result, RejectedRecord):
            raise result
        return result

    def _parse_answer(
        self, kind: int, first: int, second: int
    ) -> tuple[RgbImage | RejectedRecord, int]:
        """What it answered, and how many of the shared bytes that took."""
        if kind == AnswerType.PIXELS and 0 < (size := 3 * first * second) <= self._room:
            pixels = np.frombuffer(self._shared, np.uint8, size).reshape(first, second, 3)
            return _detached_copy(pixels), size
        if kind == AnswerType.REJECTED and first <= self._room:
            return RejectedRecord(**orjson.loads(self._shared[:first])), first
        if kind == AnswerType.MEMORY:
            limit = self._limits.memory_bytes_max
            return RejectedRecord(
                "image_too_much_memory",
                f"decoding the picture takes more than the limit of {limit} bytes of memory",
                field="image",
                limit=limit,
            ), 0
        raise self._crashed()

    def _await_answer(self, used: float, unwanted: threading.Event) -> None:
        """Until there is one, or the process died. `used`: its processor time before."""
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
        with contextlib.suppress(BrokenPipeError):  # it died, which the answer tells
            self._requests.write(message)

    def _read(self) -> tuple[int, int, int]:
        answer = self._answers.read(ANSWER.size)  # one write of the child
        if len(answer) < ANSWER.size:
            raise self._crashed()
        kind, first, second = ANSWER.unpack(answer)
        return kind, first, second

    def _crashed(self) -> RejectedRecord:
        self.kill()  # after the end of its answers, at the latest
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
    """A copy in memory of its own, not of the heap, which hundreds of them would fragment."""
    copied = np.frombuffer(mmap.mmap(-1, pixels.size), np.uint8).reshape(pixels.shape)
    copied[:] = pixels
    return copied


def _started(fd: int, size: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        module_command("consumers.images.decoder_process", str(fd), str(size), str(os.getpid())),
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[fd],
        # A Ctrl-C is for us. The session stays ours: where Linux shares processors among sessions
        # (autogroup), the niceness that it inherits counts only within one.
        process_group=0,
        # No secret of ours goes to what strangers' pictures run in.
        env={
            "PATH": os.environ.get("PATH", ""),
            "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",  # each would take address space
            # Else glibc returns each picture's memory, and faults for the next cost 1.7 ms.
            "MALLOC_TRIM_THRESHOLD_": str(32 * 1024 * 1024),
            "MALLOC_MMAP_THRESHOLD_": str(16 * 1024 * 1024),
        },
    )
