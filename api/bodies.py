"""Request bodies: bounded while reading, JSON only where JSON is due, large ones in a thread."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from contracts.errors import RejectedRequest
from contracts.message_parser import parse_json
from contracts.settings import Settings

# Parsed on the loop: handing over what is smaller takes as long.
_QUICK_BYTES = 32 * 1024

_Parsed = TypeVar("_Parsed")


async def read_json(request: Request, settings: Settings) -> Any:
    """The body parsed. Raises RejectedRequest: content_type (415), too_large (413), invalid_json.

    A form or a script of a foreign page can send text/plain without asking; so that is refused.
    """
    return await read_as(request, settings, lambda body: body)


async def read_as(request: Request, settings: Settings, parse: Callable[[Any], _Parsed]) -> _Parsed:
    """What `parse` makes of the JSON; of a large body in a thread. Raises as both do."""
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
    chunks, size = await _read(request, settings)

    def parsed() -> _Parsed:
        return parse(parse_json(chunks[0] if len(chunks) == 1 else b"".join(chunks)))

    return parsed() if size <= _QUICK_BYTES else await asyncio.to_thread(parsed)


async def _read(request: Request, settings: Settings) -> tuple[list[bytes], int]:
    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        _bound(int(announced), settings.body_bytes_max)
    chunks, size, values = [], 0, 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            _bound(size, settings.body_bytes_max)
            values += values_in(chunk)
            require_few(values, settings.body_values_max)
            chunks.append(chunk)
    except ClientDisconnect:
        # Nobody reads this answer; a defect of ours it is not, which the log would tell at length.
        raise RejectedRequest("disconnected", "body: its sender went before its end") from None
    return chunks, size


def values_in(raw: bytes | str) -> int:
    """About how many values a piece of JSON has, without parsing it.

    What stands in texts counts too; lists and objects count twice more, as they take most memory.
    """
    if isinstance(raw, str):
        return raw.count(",") + 2 * (raw.count("[") + raw.count("{"))
    return raw.count(b",") + 2 * (raw.count(b"[") + raw.count(b"{"))


def require_few(values: int, limit: int, field: str = "body") -> None:
    """Parsing takes the interpreter for as long as there are values: raises RejectedRequest."""
    if values > limit:
        raise RejectedRequest(
            "too_many",
            f"body_values_max: limit {limit} values in one {field} (commas, and lists and objects "
            f"twice), got {values} or more",
            status=413,
            field=field,
            limit=limit,
            value=values,
        )


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
