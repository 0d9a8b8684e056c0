"""Decoding in processes: the same pixels, and what befalls one costs one picture."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from blockbuster import BlockBuster
from PIL import Image

from consumers.images.decode import decode_image
from consumers.images.decoder_pool import DecodeLimits, DecoderPool
from consumers.images.preprocess import CentralSquare
from consumers.queries.encoder import PictureLimits, ProcessQueryEncoder, QueryModel
from contracts.errors import NotReady, RejectedRecord
from contracts.metrics import Metrics
from contracts.ports.encoder import Preprocess
from tests.faults import decoder_faults
from tests.faults.decoder_faults import Marked
from tests.faults.hostile_pictures import bomb, many_scans

LIMITS = DecodeLimits(2_000_000, 4_000_000, 20.0, 1 << 30)
# For what never ends: beside it good pictures must come through on a busy machine.
HASTY = replace(LIMITS, seconds_max=1.0)


@contextmanager
def opened(
    processes: int = 1,
    preprocess: Preprocess = Marked(),  # noqa: B008  frozen
    limits: DecodeLimits = LIMITS,
) -> Iterator[DecoderPool]:
    decoders = DecoderPool(processes, limits, preprocess)
    try:
        yield decoders
    finally:
        decoders.close()


def marked(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (red, 1, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def photo(width: int = 640, height: int = 480) -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def rejected(decoders: DecoderPool, data: bytes) -> RejectedRecord:
    with pytest.raises(RejectedRecord) as caught:
        decoders.decode_now(data)
    assert caught.value.field == "image"
    return caught.value


def decoder_processes(parent: int | None = None) -> list[psutil.Process]:
    """Return the decoders below a process, by default below this one."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            if "consumers.images.decoder_process" in process.cmdline():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            pass
    return found


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(holds: Callable[[], bool], within_s: float = 30) -> None:
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends, "it did not come to hold"
        time.sleep(0.01)


def test_the_pixels_are_those_of_this_process() -> None:
    preprocess = CentralSquare(256, 224)
    with opened(preprocess=preprocess) as decoders:
        found = []
        for data in (photo(), photo(2000, 1500), marked(7), photo(80, 1600)):
            decoded = decoders.decode_now(data)
            found.append((decoded, decoded.copy()))
            here = decode_image(data, bytes_max=10**7, pixels_max=10**7, side_hint=256)
            assert (decoded == preprocess(here)).all()
            assert decoded.flags.writeable  # torch warns of others
        # The memory that is shared with the process is not a part of them.
        assert all((decoded == copied).all() for decoded, copied in found)


def test_rejections_are_those_of_this_process() -> None:
    with opened() as decoders:
        for data in (b"", b"hello", photo()[:100], bytes(LIMITS.bytes_max + 1)):
            found = rejected(decoders, data)
            with pytest.raises(RejectedRecord) as here:
                decode_image(
                    data, bytes_max=LIMITS.bytes_max, pixels_max=LIMITS.pixels_max, side_hint=64
                )
            assert found.members() == here.value.members()


def test_pictures_larger_than_what_is_kept_leave_nothing_behind() -> None:
    limits = DecodeLimits(20_000_000, 16_000_000, 10, 1 << 31)
    with opened(limits=limits, preprocess=Marked(side=4000)) as decoders:
        buffer = io.BytesIO()
        Image.new("RGB", (4000, 4000), "red").save(buffer, "PNG")
        decoded = decoders.decode_now(buffer.getvalue())
        assert decoded.shape == (4000, 4000, 3)
        assert (decoded == (255, 0, 0)).all()
        (child,) = decoder_processes()
        shared = [m.rss for m in child.memory_maps() if "tidelens-picture" in m.path]
        assert sum(shared) < 1_000_000
        assert decoders.decode_now(marked(7)).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("red", "code", "why"),
    [
        (decoder_faults.SEGFAULT, "image_crashed", "SIGSEGV"),
        (decoder_faults.EXIT, "image_crashed", "exit code 3"),
        (decoder_faults.RAISE, "image_crashed", "exit code 1"),
        (decoder_faults.SLEEP, "image_too_slow", "the limit is 1 s"),
        (decoder_faults.BURN, "image_too_slow", "the limit is 1 s"),
        (decoder_faults.ALLOCATE, "image_too_much_memory", str(1 << 30)),
    ],
)
def test_what_befalls_a_process_costs_one_picture(red: int, code: str, why: str) -> None:
    with opened(2, limits=HASTY) as decoders, ThreadPoolExecutor(4) as pool:
        good = [pool.submit(decoders.decode_now, marked(7)) for _ in range(20)]
        bad = pool.submit(rejected, decoders, marked(red))
        good += [pool.submit(decoders.decode_now, marked(7)) for _ in range(20)]
        assert bad.result().code == code
        assert why in bad.result().message
        assert all((future.result()[0, 0] == (7, 1, 2)).all() for future in good)
        assert (decoders.decode_now(marked(7))[0, 0] == (7, 1, 2)).all()


@pytest.mark.anyio
async def test_the_event_loop_does_not_wait() -> None:
    decoders = DecoderPool(1, HASTY, Marked())
    try:
        hanging = asyncio.create_task(decoders.decode(marked(decoder_faults.SLEEP)))
        await asyncio.sleep(0.05)
        good = asyncio.create_task(decoders.decode(marked(7)))
        with pytest.raises(RejectedRecord, match="processor time"):
            await hanging
        assert (await good).shape == (30, 40, 3)
    finally:
        await asyncio.to_thread(decoders.close)


def test_the_time_of_a_picture_goes_by_its_pixels() -> None:
    limits = DecodeLimits(10**6, 50_000_000, 5.0, 1 << 30, seconds_min=1.0)
    assert [limits.seconds(n * 1_000_000) for n in (0, 1, 10, 25, 49, 50, 90)] == [
        pytest.approx(seconds) for seconds in (1, 1, 1, 2.5, 4.9, 5, 5)
    ]
    # 4 s of work for 90,000 pixels: far less than the largest picture may take, and refused.
    limits = DecodeLimits(10**7, 50_000_000, 120.0, 1 << 30, seconds_min=0.2)
    with opened(limits=limits) as decoders:
        found = rejected(decoders, many_scans(300, 300, 40_000))
        assert (found.code, found.limit) == ("image_too_slow", pytest.approx(0.216))
        assert "its 90000 pixels" in found.message


@pytest.mark.anyio
async def test_what_nobody_awaits_makes_room_for_the_next() -> None:
    decoders = DecoderPool(1, replace(LIMITS, seconds_max=3_600), Marked())
    try:
        hanging = asyncio.create_task(decoders.decode(marked(decoder_faults.BURN)))
        await asyncio.sleep(0.05)
        hanging.cancel()
        async with asyncio.timeout(60):
            assert (await decoders.decode(marked(7))).shape == (30, 40, 3)
    finally:
        await asyncio.to_thread(decoders.close)


def test_a_process_killed_while_idle_is_no_fault_of_the_next_picture() -> None:
    with opened() as decoders:
        decoders.decode_now(marked(7))
        (child,) = decoder_processes()
        child.send_signal(signal.SIGKILL)
        eventually(lambda: _ended(child))
        assert decoders.decode_now(marked(7)).shape == (30, 40, 3)


def test_a_large_picture_leaves_no_memory_in_its_process() -> None:
    limits = replace(LIMITS, bytes_max=20_000_000, pixels_max=50_000_000)
    with opened(preprocess=CentralSquare(256, 224), limits=limits) as decoders:
        decoders.decode_now(photo())
        (child,) = decoder_processes()
        before = child.memory_info().rss
        decoders.decode_now(bomb("tiff"))
        eventually(lambda: child.memory_info().rss < before + 64 * 2**20)


def test_processes_outlive_the_threads_that_ask() -> None:
    with opened() as decoders:
        asking = threading.Thread(target=decoders.decode_now, args=(marked(7),))
        asking.start()
        asking.join()
        (before,) = decoder_processes()
        decoders.decode_now(marked(7))
        assert decoder_processes() == [before]


def test_a_decoder_that_cannot_start_is_no_fault_of_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened() as decoders:
        for executable in ("/nowhere/python", "/bin/false"):
            monkeypatch.setattr(sys, "executable", executable)
            with pytest.raises(NotReady):
                decoders.decode_now(marked(7))
        monkeypatch.undo()
        assert decoders.decode_now(marked(7)).shape == (30, 40, 3)


def test_close_ends_what_is_under_way() -> None:
    decoders = DecoderPool(1, DecodeLimits(10**6, 10**6, 60, 1 << 30), Marked())
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(decoders.decode_now, marked(decoder_faults.SLEEP))
        eventually(lambda: bool(decoder_processes()))
        time.sleep(0.2)
        began = time.monotonic()
        decoders.close()
        assert time.monotonic() - began < 20
        with pytest.raises(NotReady):  # and not a dead letter for a good picture
            hanging.result()
    assert decoder_processes() == []
    decoders.close()


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_crashes_leak_nothing() -> None:
    with opened() as decoders:
        decoders.decode_now(marked(7))
        files = _open_files()
        for _ in range(10):
            assert rejected(decoders, marked(decoder_faults.SEGFAULT)).code == "image_crashed"
        decoders.decode_now(marked(7))
        assert _open_files() == files
        assert len(decoder_processes()) == 1
    maps = [m.path for m in psutil.Process().memory_maps()]
    assert not any("tidelens-picture" in path for path in maps)
    assert not [c for c in psutil.Process().children() if c.status() == psutil.STATUS_ZOMBIE]


_PARENT = """
import sys
from tests.faults.decoder_faults import Marked
from tests.unit.consumers.test_decoder_pool import LIMITS, marked
from consumers.images.decoder_pool import DecodeLimits, DecoderPool
decoders = DecoderPool(1, DecodeLimits(10**6, 10**6, 60, 1 << 30), Marked())
decoders.decode_now(marked(7))
print("ready", flush=True)
decoders.decode_now(marked(int(sys.argv[1])))
sys.stdin.read()
"""


@pytest.mark.parametrize("red", [7, decoder_faults.SLEEP, decoder_faults.BURN])
def test_a_process_ends_when_its_parent_is_killed(red: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(red)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (child,) = decoder_processes(parent.pid)
        parent.kill()
        eventually(lambda: _ended(child))


@pytest.mark.anyio
async def test_the_query_encoder_lives_on(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # starting a process is one
    encoder = ProcessQueryEncoder(
        QueryModel("hash", 1, None, False),
        Metrics(),
        PictureLimits(DecodeLimits(10**6, 10**6, 10.0, 1 << 28), 1, 8, 10**6, nice=0),
        batch_max=8,
        queue_max=8,
        cache_max=8,
    )
    running = asyncio.create_task(encoder.run())
    try:
        async with asyncio.timeout(60):
            assert (await encoder.image(marked(7))).shape
            (child,) = await asyncio.to_thread(decoder_processes)
            child.kill()
            await asyncio.to_thread(eventually, lambda: _ended(child))
            assert (await encoder.image(marked(8))).shape
            with pytest.raises(RejectedRecord, match="none of"):
                await encoder.image(b"hello")
            (second,) = await asyncio.to_thread(decoder_processes)
    finally:
        running.cancel()
        await asyncio.wait([running])
    await asyncio.to_thread(eventually, lambda: _ended(second))


def test_a_decoder_is_as_nice_as_we_are_and_in_our_session() -> None:
    with opened() as decoders:
        decoders.decode_now(marked(7))
        (child,) = decoder_processes()
        assert child.nice() == os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getsid(child.pid) == os.getsid(0)
        assert os.getpgid(child.pid) == child.pid
