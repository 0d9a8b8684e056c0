"""Request bodies and JSON answers: bounded while reading, JSON only where JSON is due."""

from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from contracts.errors import RejectedRequest
from contracts.messages import parse_json


async def read_json(request: Request, *, bytes_max: int) -> Any:
    """The body parsed. Raises RejectedRequest: content_type (415), too_large (413), invalid_json.

    A form or a script of a foreign page can send text/plain without asking; so that is refused.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RejectedRequest(
            "content_type",
            f"content-type: want application/json, got {content_type!r}",
            status=415,
            field="content-type",
            value=content_type,
        )
    return parse_json(await _read(request, bytes_max))


async def _read(request: Request, bytes_max: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        _bound(int(announced), bytes_max)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            _bound(len(body), bytes_max)
    except ClientDisconnect:
        # Nobody reads this answer; a defect of ours it is not, which the log would tell at length.
        raise RejectedRequest("disconnected", "body: its sender went before its end") from None
    return bytes(body)


def _bound(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise RejectedRequest(
            "too_large",
            f"body_bytes_max: limit {bytes_max} bytes, got {size}",
            status=413,
            field="body",
            limit=bytes_max,
            value=size,
        )


def json(body: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(body), status, media_type="application/json")
