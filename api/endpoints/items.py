"""Endpoints below /v1/items: publish items to the log, read and delete indexed items."""

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.http.answers import ResponseWriter
from api.http.bodies import BodyReader
from api.http.item_path import item_id_of
from api.node import Node
from contracts.errors import RejectedRecord, RejectedRequest, TimedOut
from contracts.events.content_body import ImageData
from contracts.events.content_event import Content, content_record, delete_record
from contracts.events.record import OutRecord
from contracts.picture_formats import media_type_of
from contracts.topics import TARGETS, Target
from contracts.wire.client_messages import NewItem
from contracts.wire.data_uri import decode_base64, is_reference
from contracts.wire.message_json import wire_hit
from contracts.wire.parser import parse_new_items


class ItemEndpoints:
    """The endpoints. Publishing writes an event to the log, and the index follows the log."""

    def __init__(self, node: Node, responses: ResponseWriter, bodies: BodyReader) -> None:
        self._node = node
        self._json = responses.json
        self._bodies = bodies

    async def post(self, request: Request) -> Response:
        """Publish one item or a list of them, and answer with a token for each."""
        return await self._publish(await self._bodies.parsed(request, self._records))

    def _records(self, body: Any) -> list[OutRecord]:
        items = parse_new_items(body, items_max=self._node.settings.publish_items_max)
        records = []
        for position, item in enumerate(items):
            try:
                records.append(self._record(item))
            except RejectedRecord as error:
                raise _at(error, f"{position}." if isinstance(body, list) else "") from None
        return records

    async def get(self, request: Request) -> Response:
        """Answer with an indexed item. Raises RejectedRequest (404) if there is none."""
        target, item_id = _target_and_id(request)
        hit = await self._node.searcher.item(target, item_id)
        if hit is None:
            raise RejectedRequest(
                "item_not_found", f"no item {item_id!r} in {target}", status=404, field="id"
            )
        item = wire_hit(hit, include=())
        del item["rank"], item["score"]
        return await self._json(item)

    async def delete(self, request: Request) -> Response:
        """Publish a tombstone of an item, and answer with its token."""
        target, item_id = _target_and_id(request)
        return await self._publish([delete_record(self._node.names.content(target), item_id)])

    async def _publish(self, records: Sequence[OutRecord]) -> Response:
        bound_s = self._node.settings.wait_s_max
        try:
            async with asyncio.timeout(bound_s):
                positions = await self._node.log.publish(records)
        except TimeoutError:
            raise TimedOut(
                f"not acknowledged by the brokers within {bound_s:g} s; it may have been written, "
                "and publishing it again does no harm"
            ) from None
        self._node.metrics.published.inc(len(records))
        return await self._json({"tokens": (position._asdict() for position in positions)})

    def _record(self, item: NewItem) -> OutRecord:
        """Return the record of an item. Raises RejectedRecord if every reader would refuse it."""
        content = Content(
            target=item.target,
            id=item.id,
            text=item.text,
            item=item.item,
            metadata=item.metadata,
            **({} if item.image is None else self._picture(item.image)),
        )
        # A picture of unknown format is published nevertheless; the encoder refuses it.
        media_type = media_type_of(content.image or b"")
        record = content_record(
            self._node.names.content(item.target), content, media_type=media_type
        )
        self._bound(_size(record), "record_bytes_max", self._node.settings.record_bytes_max)
        return record

    def _picture(self, image: str | ImageData) -> dict[str, Any]:
        """Return members of Content: the picture's bytes, or the reference to them."""
        if isinstance(image, ImageData):
            if image.ref is not None:
                self._check_reference(image.ref)
                return {"ref": image.ref, "sha256": image.sha256}
            assert image.data is not None
            data = decode_base64(image.data, "image.data")
        elif is_reference(image):
            self._check_reference(image)
            message = "image.sha256: a reference needs the SHA-256 of its bytes"
            raise RejectedRecord("invalid_content", message, field="image.sha256")
        else:
            data = decode_base64(image, "image")
        if not data:
            raise RejectedRecord("empty_image", "image: no bytes", field="image")
        self._bound(len(data), "inline_bytes_max", self._node.settings.inline_bytes_max)
        return {"image": data}

    def _check_reference(self, ref: str) -> None:
        """Check the scheme only; the encoder decides whether the reference may be read."""
        if ref.lower().startswith("file:"):
            # Otherwise any client could have files of this server read and shown.
            message = "image.ref: file: references are refused over HTTP; use `tidelens publish`"
            raise RejectedRecord("file_reference", message, field="image.ref")
        enabled = [s for s in self._node.settings.reference_schemes if s != "file"]
        scheme = ref.partition(":")[0].lower()
        if scheme not in enabled:
            message = f"image.ref: want one of {', '.join(enabled) or 'none'}, got {scheme[:20]!r}"
            raise RejectedRecord(
                "not_enabled", message, field="image.ref", limit=enabled, value=scheme[:20]
            )

    @staticmethod
    def _bound(size: int, name: str, limit: int) -> None:
        if size > limit:
            raise RejectedRecord.over(
                "too_large", limit, size, field="image", name=name, unit="bytes"
            )


def _size(record: OutRecord) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _at(error: RejectedRecord, prefix: str) -> RejectedRequest:
    """Return a record's rejection as that of the request, with the item's position in a list."""
    return RejectedRequest(
        error.code,
        f"{prefix}{error.message}",
        status=413 if error.code == "too_large" else 400,
        field=f"{prefix}{error.field or 'item'}",
        limit=error.limit,
        value=error.value,
    )


def _target_and_id(request: Request) -> tuple[Target, str]:
    name = request.path_params["target"]
    for target in TARGETS:
        if target == name:
            return target, item_id_of(request)
    raise RejectedRequest(
        "unknown_target",
        f"target: want {' or '.join(TARGETS)}, got {name!r}",
        status=404,
        field="target",
        limit=list(TARGETS),
        value=name,
    )
