"""Pictures of queries: in a lane of their own, within bounds, and nobody's text waits for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import psutil
import pytest
from blockbuster import BlockBuster
from PIL import Image

from consumers.images.decoder_pool import BESIDE_QUERIES_NICE
from consumers.queries.encoder import ProcessQueryEncoder
from contracts.errors import NotReady, RejectedRecord, RejectedRequest
from contracts.settings import Settings
from contracts.testing.encoder import HashEncoder
from tests.faults.hostile_pictures import bomb, many_scans, plain, png
from tests.kits.picture_files import saved
from tests.unit.consumers.test_decoder_pool import decoder_processes
from tidelens.runtime.query_encoder import make_queries

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

# So that hostile pictures take a minute each, while texts take milliseconds.
ENDLESS = {"query_decode_seconds_max": 3_600, "query_decode_seconds_min": 3_600}


@pytest.fixture(autouse=True)
def starting_processes(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # starting a process is a blocking call


@asynccontextmanager
async def running(*, nice: int = 0, **settings: Any) -> AsyncIterator[ProcessQueryEncoder]:
    # On a busy machine nice decoders would wait for every other process.
    queries = make_queries(Settings(model="hash", **settings), decoder_nice=nice)
    queries.start()
    try:
        yield queries.encoder
    finally:
        await queries.stop()


def endless(number: int = 0) -> bytes:
    return many_scans(2_000, 2_000, 20_000) + b"%d" % number


def depth(encoder: ProcessQueryEncoder) -> float | None:
    labels = {"queue": "query_pictures", "space": "hash-v1"}
    return encoder._metrics.registry.get_sample_value("tidelens_queue_depth", labels)


async def decoding(encoder: ProcessQueryEncoder) -> list[psutil.Process]:
    """Return its decoders, once there are any."""
    await encoder.loaded.wait()
    while not (found := await asyncio.to_thread(decoder_processes)):
        await asyncio.sleep(0.01)
    return found


async def test_texts_wait_for_no_picture() -> None:
    async with running(nice=BESIDE_QUERIES_NICE, **ENDLESS) as encoder:
        hostile = [asyncio.create_task(encoder.image(endless(n))) for n in range(20)]
        (decoder,) = await decoding(encoder)
        for text in ("one", "two", "three"):
            expected = HashEncoder().encode_texts([text])[0]
            assert (await encoder.query(text)).tobytes() == expected.tobytes()
        assert not any(task.done() for task in hostile)
        assert depth(encoder) == 20
        # What decodes pictures gives way to what answers texts.
        while decoder.nice() != psutil.Process().nice() + 10:
            await asyncio.sleep(0.01)
        for task in hostile:
            task.cancel()
        # Nobody awaits them: they make room at once, the one that was being decoded too.
        small = plain("PNG", 40, 30)
        assert (await encoder.image(small)).shape == HashEncoder().encode_texts(["a"])[0].shape
        assert depth(encoder) == 0


@pytest.mark.parametrize(
    ("settings", "sizes", "says"),
    [
        ({"query_pictures_max": 2}, (1, 1), "query_pictures_max: limit 2 pictures"),
        ({"query_pictures_mb": 1}, (900_000,), "query_pictures_mb: limit 1048576 bytes"),
    ],
)
async def test_what_waits_is_bounded(
    settings: dict[str, Any], sizes: tuple[int, ...], says: str
) -> None:
    async with running(**ENDLESS, **settings) as encoder:
        waiting = [
            asyncio.create_task(encoder.image(endless(n) + bytes(size)))
            for n, size in enumerate(sizes)
        ]
        await decoding(encoder)
        with pytest.raises(RejectedRequest, match=says) as refused:
            await encoder.image(endless(99) + bytes(300_000))
        assert (refused.value.status, refused.value.field) == (429, "image")
        for task in waiting:
            task.cancel()
        async with asyncio.timeout(60):  # its decoder has to be ended first
            while True:
                try:
                    await encoder.image(plain("PNG", 40, 30))
                    break
                except RejectedRequest:
                    await asyncio.sleep(0.01)


async def test_the_same_picture_is_decoded_once_for_all_who_ask() -> None:
    async with running(query_pictures_max=1) as encoder:
        data = plain("PNG", 40, 30)
        asking = [asyncio.create_task(encoder.image(data)) for _ in range(5)]
        await asyncio.sleep(0)
        asking[0].cancel()  # the first to ask leaves, and the others have their answer
        found = await asyncio.gather(*asking[1:])
        assert all(vector is found[0] for vector in found)
        assert await encoder.image(data) is found[0]


async def test_the_limits_are_those_of_queries() -> None:
    async with running(query_image_pixels_max=1_000_000, query_decode_seconds_min=0.2) as encoder:
        for data, code, limit in (
            (bomb("png"), "image_too_many_pixels", 1_000_000),
            (png(1, 900_000), "image_too_long_side", 65_535),
            (many_scans(300, 300, 20_000), "image_too_slow", 0.2),
        ):
            with pytest.raises(RejectedRecord) as rejected:
                await encoder.image(data)
            assert (rejected.value.code, rejected.value.limit) == (code, limit)
            assert rejected.value.field == "image"


async def test_who_waits_for_a_picture_hears_of_the_end() -> None:
    async with running(**ENDLESS) as encoder:
        waiting = [asyncio.create_task(encoder.image(endless(n))) for n in range(3)]
        await decoding(encoder)
    for task in waiting:
        with pytest.raises(NotReady):
            await task


async def test_a_picture_is_that_of_its_pixels() -> None:
    async with running() as encoder:
        image = Image.new("RGB", (64, 48), (200, 30, 10))
        found = await encoder.image(saved(image, "PNG"))
        hashes = HashEncoder()
        pixels = hashes.preprocess(np.asarray(image))
        assert found.tobytes() == hashes.encode_images([pixels])[0].tobytes()
