"""GET /v1/pictures/ID: a picture, read from the log to which it was published.

Pictures are not stored a second time: the source of the hit names the record, whose key must be the
requested id. A record may refer to a picture elsewhere, which is then read from there and must
still be what was published. Pictures come from strangers. So an unknown format is not served, a
format that browsers do not show is converted in a process that may crash, and a served picture
cannot run scripts.
"""

import asyncio
import hashlib

from starlette.requests import Request
from starlette.responses import Response

from api.endpoints.picture_cache import (
    CachedPicture,
    CostlyRefusal,
    Permits,
    PictureCache,
    SharedReads,
)
from api.http.answers import ResponseWriter
from api.http.item_path import item_id_of
from api.node import Node
from contracts.errors import RejectedRecord, RejectedRequest
from contracts.events.content_event import Content, key_of_id, read_content
from contracts.events.record import RecordPosition
from contracts.picture_formats import format_of
from contracts.settings import MIB

_CONVERTED_TO = "image/jpeg"
# The code and message of an answer when a reference is refused, by the code of the refusal. Any
# other code becomes `not_readable`.
_REFUSED_AS = {
    "not_enabled": ("not_enabled", "the picture has a reference whose scheme is not enabled here"),
    "reference_changed": ("superseded", "the picture has changed since it was published"),
}
_NOT_READABLE = ("not_readable", "the picture that the reference names cannot be read")
_FILE = "file:"


class PictureEndpoint:
    """The endpoint, with a cache of the pictures that were shown last."""

    def __init__(self, node: Node, responses: ResponseWriter) -> None:
        settings = node.settings
        self._node = node
        self._bytes = responses.bytes
        self._cache = PictureCache(settings.pictures_cached_mb * MIB)
        # No type of work may take all permits, since other hosts and codecs may be slow.
        reading, remote = settings.pictures_reading_max, settings.pictures_remote_max
        self._remote = Permits("pictures_remote_max", remote, "pictures read from other hosts")
        converting = settings.pictures_converting_max
        self._converting = Permits(
            "pictures_converting_max", converting, "pictures being converted"
        )
        self._reads = SharedReads(
            Permits("pictures_reading_max", reading, "pictures being read"), node.clock.now
        )

    async def get(self, request: Request) -> Response:
        """Answer with the picture of an item, or with 304 if the browser has this version."""
        item_id = item_id_of(request)
        hit = await self._node.searcher.item("images", item_id)
        if hit is None:
            raise RejectedRequest(
                "item_not_found", f"no picture {item_id!r}", status=404, field="id"
            )
        source = hit.source
        version = _etag(self._node.searcher.as_of().epoch, source)
        # The item may have another picture tomorrow, so browsers check its version each time.
        headers = {"etag": version, "cache-control": "private, no-cache"}
        if version in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        picture = self._cache.get(version)
        if picture is None:
            picture = await self._reads.join(version, lambda: self._read(item_id, source, version))
        headers |= {
            "content-security-policy": "default-src 'none'; sandbox",
            "x-content-type-options": "nosniff",
            "content-disposition": "inline",
        }
        return self._bytes(picture.data, headers, picture.media_type)

    async def _read(self, item_id: str, source: RecordPosition, version: str) -> CachedPicture:
        content = await self._content(item_id, source)
        # Several items may refer to one picture, which the published SHA-256 identifies.
        name = version if content.sha256 is None else content.sha256
        picture = self._cache.get(name)
        if picture is None:
            if content.image is not None:
                picture = await self._shown(item_id, content.image)
            else:
                picture = await self._referenced(item_id, content)
            self._cache.put(name, picture)
        return picture

    async def _content(self, item_id: str, source: RecordPosition) -> Content:
        record = await self._node.log.read(source)
        if record is None or record.key != key_of_id(item_id):
            raise _absent("superseded", f"{item_id!r} was published again, or compacted away")
        try:
            content = read_content("images", record)
        except RejectedRecord as error:
            raise _absent(error.code, error.message) from None
        if content is None:
            raise _absent("superseded", f"{item_id!r} was deleted")
        return content

    async def _referenced(self, item_id: str, content: Content) -> CachedPicture:
        assert content.ref is not None
        reading = self._node.picture_references.read(content.ref, content.sha256)
        if content.ref.lower().startswith(_FILE):
            try:
                async with reading as data:
                    return await self._shown(item_id, data)
            except RejectedRecord as error:
                raise _absent(*_REFUSED_AS.get(error.code, _NOT_READABLE)) from None
        limit_s = self._node.settings.reference_timeout_s
        with self._remote.permit():
            try:
                async with asyncio.timeout(limit_s) as reading_time, reading as data:
                    reading_time.reschedule(None)
                    return await self._shown(item_id, data)
            except TimeoutError:
                message = (
                    f"the picture was not read within {limit_s:g} s (TIDELENS_REFERENCE_TIMEOUT_S)"
                )
                raise CostlyRefusal("timed_out", message, status=504, limit=limit_s) from None
            except RejectedRecord as error:
                code, message = _REFUSED_AS.get(error.code, _NOT_READABLE)
                if error.code == "reference_unreachable":  # a later attempt may succeed
                    raise CostlyRefusal(error.code, message, status=503, field="id") from None
                raise CostlyRefusal(code, message, status=404, field="id") from None

    async def _shown(self, item_id: str, data: bytes) -> CachedPicture:
        """Return the picture unchanged if browsers show its format, otherwise as a JPEG."""
        known = format_of(data)
        if known is None:
            raise _absent("unknown_format", f"{item_id!r} has an unknown picture format")
        if known.is_shown_by_browsers:
            return CachedPicture(data, known.media_type)
        with self._converting.permit():
            try:
                return CachedPicture(await self._node.converter.to_jpeg(data), _CONVERTED_TO)
            except RejectedRecord as error:
                raise CostlyRefusal(error.code, error.message, status=404, field="id") from None


def _etag(epoch: str, source: RecordPosition) -> str:
    name = f"{epoch}:{source.topic}:{source.partition}:{source.offset}"
    return f'"{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}"'


def _absent(code: str, message: str) -> RejectedRequest:
    return RejectedRequest(code, message, status=404, field="id")
