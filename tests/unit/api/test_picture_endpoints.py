"""Pictures of /v1/pictures are read from the log, belong to their item, and are harmless."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from api.endpoints.picture_cache import CachedPicture, PictureCache
from consumers.references import ReferenceLimits
from consumers.references.published import DisplayReferences
from contracts.events.content_event import Content, content_record
from contracts.events.record import OutRecord
from contracts.settings import Settings
from tests.kits.api_kit import MURMUR2, PARTITIONS, Kit, NoReferences

pytestmark = pytest.mark.anyio
PICTURES = {
    "image/png": b"\x89PNG\r\n\x1a\n....",
    "image/jpeg": b"\xff\xd8\xff\xe0....",
    "image/webp": b"RIFF\0\0\0\0WEBP....",
    "image/gif": b"GIF89a....",
    "image/bmp": b"BM......",
    "image/avif": b"\0\0\0\x14ftypavif\0\0\0\0mif1....",
}
PNG = PICTURES["image/png"]


async def published(kit: Kit, item_id: str, record: OutRecord, *, key: bytes | None = None) -> None:
    """Write it to the log, and index it with that source."""
    partition = MURMUR2(item_id.encode(), PARTITIONS)
    record = OutRecord(record.topic, key or record.key, record.value, record.headers, partition)
    [position] = await kit.log.publish([record])
    kit.index.put("images", item_id, kit.text("x"), at=position.offset)


async def picture(kit: Kit, item_id: str, data: bytes, **rest: Any) -> None:
    content = Content(target="images", id=item_id, image=data)
    await published(kit, item_id, content_record("tidelens.images", content), **rest)


@pytest.mark.parametrize("media_type", PICTURES)
async def test_the_bytes_as_published(media_type: str) -> None:
    kit = Kit()
    await picture(kit, "a/b c.png", PICTURES[media_type])
    response = await kit.http.get("/v1/pictures/a/b%20c.png")
    assert (response.content, response.headers["content-type"]) == (
        PICTURES[media_type],
        media_type,
    )
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


async def test_base64_in_a_json_body() -> None:
    kit = Kit()
    headers = [("ce_type", b"tidelens.image.v1"), ("content-type", b"application/json")]
    body = orjson.dumps({"image": {"data": base64.b64encode(PNG).decode()}})
    await published(kit, "a", OutRecord("tidelens.images", b"a", body, headers))
    assert (await kit.http.get("/v1/pictures/a")).content == PNG


async def test_not_changed_is_not_sent_again() -> None:
    kit = Kit()
    await picture(kit, "a", PNG)
    etag = (await kit.http.get("/v1/pictures/a")).headers["etag"]
    headers = {"if-none-match": etag}
    response = await kit.http.get("/v1/pictures/a", headers=headers)
    assert (response.status_code, response.content) == (304, b"")
    await picture(kit, "a", PICTURES["image/gif"])
    response = await kit.http.get("/v1/pictures/a", headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/gif")


async def test_it_is_read_once() -> None:
    kit = Kit()
    await picture(kit, "a", PNG)
    await kit.http.get("/v1/pictures/a")
    kit.log.records.clear()
    assert (await kit.http.get("/v1/pictures/a")).content == PNG


async def code(kit: Kit, item_id: str = "a") -> str:
    response = await kit.http.get(f"/v1/pictures/{item_id}")
    assert response.status_code == 404
    return str(response.json()["code"])


async def test_what_is_not_there() -> None:
    kit = Kit()
    assert await code(kit) == "item_not_found"
    kit.caption("a", "only a caption")
    assert await code(kit) == "item_not_found"


async def test_the_record_of_another_key_is_never_shown() -> None:
    kit = Kit()
    await picture(kit, "a", PNG, key=b"other")
    assert await code(kit) == "superseded"


async def test_a_record_that_compaction_took() -> None:
    kit = Kit()
    kit.index.put("images", "a", kit.text("x"), at=99)
    assert await code(kit) == "superseded"


@pytest.mark.parametrize("data", [b"<svg onload=alert(1)>", b"<html>", b"%PDF-1.4"])
async def test_what_is_no_picture_is_not_served(data: bytes) -> None:
    kit = Kit()
    await picture(kit, "a", data)
    assert await code(kit) == "unknown_format"


async def reference(kit: Kit, ref: str, data: bytes = PNG) -> None:
    content = Content(target="images", id="a", ref=ref, sha256=hashlib.sha256(data).hexdigest())
    await published(kit, "a", content_record("tidelens.images", content))


def reading_files(**settings: Any) -> Kit:
    limits = ReferenceLimits.from_settings(Settings(**settings))
    return Kit(picture_references=DisplayReferences(NoReferences(), limits), **settings)


async def test_a_file_under_an_allowed_root(tmp_path: Path) -> None:
    path = tmp_path / "with space.png"
    path.write_bytes(PNG)
    kit = reading_files(allow_roots=[tmp_path])
    await reference(kit, path.as_uri())
    assert (await kit.http.get("/v1/pictures/a")).content == PNG


async def test_files_elsewhere_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.png").symlink_to(secret)
    for ref in (secret.as_uri(), f"file://{root}/../secret.png", f"file://{root}/link.png"):
        kit = reading_files(allow_roots=[root])
        await reference(kit, ref)
        assert await code(kit) == "not_readable"
    kit = reading_files()
    await reference(kit, secret.as_uri())
    assert await code(kit) == "not_readable", "no root is allowed by default"


async def test_a_file_that_changed_or_went_or_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG + b"!")
    kit = reading_files(allow_roots=[tmp_path])
    await reference(kit, path.as_uri())
    assert await code(kit) == "superseded"
    path.unlink()
    assert await code(kit) == "not_readable"
    path.write_bytes(PNG)
    small = reading_files(allow_roots=[tmp_path], image_bytes_max=5)
    await reference(small, path.as_uri())
    assert await code(small) == "not_readable"


async def test_schemes_that_are_not_enabled() -> None:
    for ref in ("https://example.com/a.png", "s3://bucket/a.png", "file:///a.png"):
        kit = reading_files(reference_schemes=[])
        await reference(kit, ref)
        assert await code(kit) == "not_enabled"
    kit = reading_files()
    await reference(kit, "file://host/a.png")
    assert await code(kit) == "not_readable"


async def test_a_record_that_cannot_be_read() -> None:
    kit = Kit()
    await published(kit, "a", OutRecord("tidelens.images", b"a", b"{}", []))
    assert await code(kit) == "not_a_cloudevent"


def test_pictures_are_kept_up_to_a_number_of_bytes() -> None:
    four, eleven = CachedPicture(b"1234", "image/png"), CachedPicture(b"x" * 11, "image/png")
    kept = PictureCache(10)
    kept.put("a", four)
    kept.put("b", four)
    assert kept.get("a") is four
    kept.put("c", four)
    assert [kept.get(name) for name in "abc"] == [four, None, four]
    kept.put("d", eleven)
    assert kept.get("d") is None
