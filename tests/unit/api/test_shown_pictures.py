"""Every indexed picture is shown, converted if browsers need that, or read from a reference."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from consumers.images.browser_picture import JpegConverter, JpegPreprocess
from consumers.images.decoder_pool import DecodeLimits, DecoderPool
from contracts.errors import NotReady, RejectedRecord
from contracts.events.content_event import Content, content_record
from contracts.picture_formats import FORMATS
from tests.kits.api_kit import MURMUR2, PARTITIONS, Kit
from tests.kits.heic_files import heic
from tests.kits.picture_files import saved, tiff

pytestmark = pytest.mark.anyio

# Pairs of pixels have one colour, as HEIC and JPEG keep them.
PIXELS = np.array([[[200, 40, 40], [40, 200, 40]]], np.uint8).repeat(32, 0).repeat(16, 1)
RED = Image.fromarray(PIXELS)
GREY16 = (PIXELS[..., 0].astype(np.uint16)) * 257
FILES = {known.name: saved(RED, known.name) for known in FORMATS if known.name != "HEIF"}
FILES |= {
    "HEIF": heic(PIXELS),
    "MPO": saved(RED, "MPO", save_all=True, append_images=[RED]),
    "TIFF of 16 bits": tiff(GREY16, 16, 1),
    "TIFF, white is zero": tiff(65_535 - GREY16, 16, 0, order=">"),
}
ELSEWHERE = "https://host.example/a.tif"


@pytest.fixture(scope="module")
def converter() -> Iterator[JpegConverter]:
    limits = DecodeLimits(10**6, 10**5, 20.0, 512 * 1024 * 1024)
    decoders = DecoderPool(1, limits, JpegPreprocess(100))
    yield JpegConverter(decoders)
    decoders.close()


class Elsewhere:
    """A ReferenceReader of pictures in memory; `go` holds them back, an error comes instead."""

    def __init__(self, **pictures: bytes) -> None:
        self.pictures = pictures
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()
        self.error: str | None = None

    @asynccontextmanager
    async def read(self, ref: str, sha256: str | None) -> AsyncIterator[bytes]:
        self.asked += 1
        await self.go.wait()
        if self.error:
            raise RejectedRecord(self.error, "image.ref: a secret of our network")
        data = self.pictures[ref.rpartition("/")[2].partition(".")[0]]
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RejectedRecord("reference_changed", "image.sha256: changed")
        yield data


async def publish(kit: Kit, item_id: str, **content: Any) -> None:
    """Write it to the log, and index it with that source."""
    record = content_record("tidelens.images", Content(target="images", id=item_id, **content))
    record = replace(record, partition=MURMUR2(item_id.encode(), PARTITIONS))
    [position] = await kit.log.publish([record])
    kit.index.put("images", item_id, kit.text("x"), at=position.offset)


async def publish_elsewhere(kit: Kit, item_id: str, data: bytes, ref: str = ELSEWHERE) -> None:
    await publish(kit, item_id, ref=ref, sha256=hashlib.sha256(data).hexdigest())


async def problem(kit: Kit, item_id: str = "a") -> tuple[int, str]:
    response = await kit.http.get(f"/v1/pictures/{item_id}")
    assert "secret" not in response.text
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize("name", FILES)
async def test_every_format_that_is_indexed_is_shown(name: str, converter: JpegConverter) -> None:
    kit = Kit(converter=converter)
    await publish(kit, "a", image=FILES[name])
    hit = (await kit.http.post("/v1/search", json={"text": "x"})).json()["hits"][0]
    response = await kit.http.get(hit["picture"])
    assert response.status_code == 200, response.text
    converted = (
        name in {known.name for known in FORMATS if not known.is_shown_by_browsers} or " " in name
    )
    assert response.headers["content-type"] == (
        "image/jpeg" if converted else f"image/{'jpeg' if name == 'MPO' else name.lower()}"
    )
    assert converted == (response.content != FILES[name])
    assert response.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(response.content)) as image:
        found = np.asarray(image.convert("RGB")).astype(int)
    wanted = PIXELS[..., :1].repeat(3, axis=2) if " " in name else PIXELS
    assert np.abs(found - wanted)[:, [2, -3]].max() < 40


async def test_a_large_picture_comes_smaller(converter: JpegConverter) -> None:
    data = saved(RED.resize((250, 40)), "TIFF")
    with Image.open(io.BytesIO(await converter.to_jpeg(data))) as image:
        assert (image.format, image.size) == ("JPEG", (100, 16))


async def test_the_limits_are_those_of_a_decoder(converter: JpegConverter) -> None:
    kit = Kit(converter=converter)
    await publish(kit, "a", image=saved(RED.resize((1000, 101)), "TIFF"))
    assert await problem(kit) == (404, "image_too_many_pixels")
    await publish(kit, "a", image=FILES["TIFF"][:60])
    assert await problem(kit) == (404, "image_broken")
    assert [
        child for child in psutil.Process().children() if "decoder_process" in str(child.cmdline())
    ]


async def test_without_a_decoder_it_is_not_ready() -> None:
    kit = Kit()
    await publish(kit, "a", image=FILES["TIFF"])
    assert await problem(kit) == (503, "not_ready")


async def test_pictures_elsewhere_are_read_once_by_what_was_published(
    converter: JpegConverter,
) -> None:
    there = Elsewhere(a=FILES["TIFF"])
    kit = Kit(picture_references=there, converter=converter)
    await publish_elsewhere(kit, "a", FILES["TIFF"])
    await publish_elsewhere(kit, "b", FILES["TIFF"], "s3://bucket/a.tif")
    first, second = [await kit.http.get(f"/v1/pictures/{name}") for name in "ab"]
    assert first.status_code == 200 and first.content == second.content
    assert there.asked == 1
    uncached = Kit(picture_references=there, pictures_cached_mb=0)
    await publish_elsewhere(uncached, "a", FILES["TIFF"])
    there.error = "reference_missing"
    assert await problem(uncached) == (404, "not_readable")


async def test_many_who_ask_at_once_cause_one_reading() -> None:
    there = Elsewhere(a=FILES["PNG"])
    there.go.clear()
    kit = Kit(picture_references=there)
    await publish_elsewhere(kit, "a", FILES["PNG"])
    asking = [asyncio.create_task(kit.http.get("/v1/pictures/a")) for _ in range(5)]
    while not there.asked:
        await asyncio.sleep(0)
    asking[0].cancel()  # who gives up leaves it to the others
    await asyncio.wait(asking[:1])
    there.go.set()
    answers = await asyncio.gather(*asking[1:])
    assert [answer.content for answer in answers] == [FILES["PNG"]] * 4
    assert there.asked == 1


@pytest.mark.parametrize(
    ("refused", "answered"),
    [
        ("reference_unreachable", (503, "reference_unreachable")),
        ("reference_missing", (404, "not_readable")),
        ("reference_forbidden", (404, "not_readable")),
        ("image_too_large_bytes", (404, "not_readable")),
        ("not_enabled", (404, "not_enabled")),
        ("reference_changed", (404, "superseded")),
    ],
)
async def test_what_cannot_be_read_is_not_asked_for_again_at_once(
    refused: str, answered: tuple[int, str]
) -> None:
    there = Elsewhere(a=FILES["PNG"])
    there.error = refused
    kit = Kit(picture_references=there)
    await publish_elsewhere(kit, "a", FILES["PNG"])
    assert [await problem(kit) for _ in range(3)] == [answered] * 3
    assert there.asked == 1
    there.error = None
    kit.clock.advance(11)
    assert (await kit.http.get("/v1/pictures/a")).content == FILES["PNG"]


async def test_a_slow_host_is_waited_for_no_longer_than_a_fetch_may_take() -> None:
    there = Elsewhere()
    there.go.clear()
    kit = Kit(picture_references=there, reference_timeout_s=0.01)
    await publish_elsewhere(kit, "a", b"x")
    assert await problem(kit) == (504, "timed_out")


async def test_slow_hosts_take_no_place_from_pictures_in_the_log() -> None:
    there = Elsewhere(a=FILES["PNG"])
    there.go.clear()
    kit = Kit(picture_references=there, pictures_remote_max=2)
    for name in "abc":
        await publish_elsewhere(kit, name, FILES["PNG"])
    await publish(kit, "d", image=FILES["PNG"])
    asking = [asyncio.create_task(kit.http.get(f"/v1/pictures/{name}")) for name in "ab"]
    while there.asked < 2:
        await asyncio.sleep(0)
    assert await problem(kit, "c") == (503, "too_many_pictures")
    assert (await kit.http.get("/v1/pictures/d")).content == FILES["PNG"]
    there.go.set()
    assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200, 200]
    assert (await kit.http.get("/v1/pictures/c")).status_code == 200


class Held:
    """A PictureConverter that waits."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0

    async def to_jpeg(self, data: bytes) -> bytes:
        self.asked += 1
        await self.go.wait()
        raise NotReady("over")


async def test_conversions_and_readings_are_bounded() -> None:
    held = Held()
    kit = Kit(converter=held, pictures_converting_max=1, pictures_reading_max=2)
    for name in "abcd":
        await publish(kit, name, image=FILES["TIFF" if name < "c" else "PNG"])
    first = asyncio.create_task(kit.http.get("/v1/pictures/a"))
    while not held.asked:
        await asyncio.sleep(0)
    response = await kit.http.get("/v1/pictures/b")
    assert (response.status_code, response.json()["code"]) == (503, "too_many_pictures")
    assert "pictures_converting_max: limit 1" in response.json()["detail"]
    assert int(response.headers["retry-after"]) > 0
    assert (await kit.http.get("/v1/pictures/c")).status_code == 200
    held.go.set()
    assert (await first).status_code == 503
