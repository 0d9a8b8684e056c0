"""GET /v1/pictures/ID: a picture, read back from the log where it was published.

There is no second store of pictures: the hit's source names the record, and the record's key must
be the id that was asked for. Pictures come from strangers, so what is not one of a few known
formats is not served, and what is served may run nothing.
"""

import asyncio
import hashlib
from collections import OrderedDict
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from api.node import Node
from contracts.errors import RejectedRecord, RejectedRequest
from contracts.events import Content, key_of_id, read_content
from contracts.picture_formats import format_of
from contracts.records import RecordPosition
from contracts.rooted import OutsideRoots, open_under

# Of pictures kept in memory: enough for the page's lists, and never more.
CACHE_BYTES_MAX = 64 * 1024 * 1024


class Pictures:
    """The endpoint, with the pictures read last."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept = _Kept(CACHE_BYTES_MAX)

    async def get(self, request: Request) -> Response:
        item_id = request.path_params["id"]
        hit = await self._node.searcher.item("images", item_id)
        if hit is None:
            raise RejectedRequest(
                "item_not_found", f"no picture {item_id!r}", status=404, field="id"
            )
        version = _etag(self._node.searcher.as_of().epoch, hit.source)
        # The id may show another picture tomorrow: it is asked again each time, by its version.
        headers = {"etag": version, "cache-control": "private, no-cache"}
        if version in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        data = self._kept.get(version)
        if data is None:
            data = await self._read(item_id, hit.source)
            self._kept.put(version, data)
        known = format_of(data)
        if known is None or not known.shown:
            raise _absent("unknown_format", f"{item_id!r} is of no known picture format")
        headers |= {
            "content-security-policy": "default-src 'none'; sandbox",
            "x-content-type-options": "nosniff",
            "content-disposition": "inline",
        }
        return Response(data, headers=headers, media_type=known.media_type)

    async def _read(self, item_id: str, source: RecordPosition) -> bytes:
        record = await self._node.log.read(source)
        if record is None or record.key != key_of_id(item_id):
            raise _absent("superseded", f"{item_id!r} was published anew, or compacted away")
        try:
            content = read_content("images", record)
        except RejectedRecord as error:
            raise _absent(error.code, error.message) from None
        if content is None:
            raise _absent("superseded", f"{item_id!r} was deleted")
        if content.image is not None:
            return content.image
        return await self._referenced(content)

    async def _referenced(self, content: Content) -> bytes:
        assert content.ref is not None
        parts = urlsplit(content.ref)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise _absent("not_enabled", "the picture is elsewhere, and only file: is read here")
        roots = self._node.settings.allow_roots
        limit = self._node.settings.image_bytes_max
        data = await asyncio.to_thread(_file_under, roots, Path(unquote(parts.path)), limit)
        if data is None:
            raise _absent("not_readable", "the picture's file is not under an allowed root")
        if hashlib.sha256(data).hexdigest() != content.sha256:
            raise _absent("superseded", "the picture's file has changed since it was published")
        return data


class _Kept:
    """The pictures read last, up to a number of bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def get(self, version: str) -> bytes | None:
        data = self._pictures.get(version)
        if data is not None:
            self._pictures.move_to_end(version)
        return data

    def put(self, version: str, data: bytes) -> None:
        if len(data) > self._bytes_max or version in self._pictures:
            return
        self._pictures[version] = data
        self._bytes += len(data)
        while self._bytes > self._bytes_max:
            _, dropped = self._pictures.popitem(last=False)
            self._bytes -= len(dropped)


def _file_under(roots: list[Path], path: Path, bytes_max: int) -> bytes | None:
    """Read the file, if it lies below one of `roots` once every link is followed."""
    try:
        with open_under(path, roots) as file:
            data = file.read(bytes_max + 1)
    except (OutsideRoots, OSError):
        return None
    return None if len(data) > bytes_max else data


def _etag(epoch: str, source: RecordPosition) -> str:
    name = f"{epoch}:{source.topic}:{source.partition}:{source.offset}"
    return f'"{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}"'


def _absent(code: str, message: str) -> RejectedRequest:
    return RejectedRequest(code, message, status=404, field="id")
