"""JSON bodies of requests, bounded while they are read, and parsed in a thread if large."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from contracts.errors import RejectedRequest
from contracts.settings import RequestSettings
from contracts.wire.parser import parse_json

# Bodies up to this size, in bytes or characters, are parsed on the event loop, since handing them
# to a thread would take as long.
INLINE_PARSE_BYTES = 32 * 1024

_Result = TypeVar("_Result")


class BodyReader:
    """A reader of all requests' bodies, which parses large ones one at a time.

    Parsing holds the interpreter's lock, so several parsers at once would starve the event loop.
    """

    def __init__(self, settings: RequestSettings) -> None:
        self._settings = settings
        self._parsing = asyncio.Lock()

    async def json(self, request: Request) -> Any:
        """Return the parsed body.

        Raises RejectedRequest with the code content_type (415), too_large (413), too_many (413),
        invalid_json or disconnected. Other content types are refused, since a form or script of a
        foreign page can send text/plain without a preflight request.
        """
        return await self.parsed(request, lambda body: body)

    async def parsed(self, request: Request, parse: Callable[[Any], _Result]) -> _Result:
        """Return the result of `parse` for the JSON; a large body is parsed in a thread.

        Raises what `json` and `parse` raise.
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
        chunks, size = await _read(request, self._settings)

        def work() -> _Result:
            return parse(parse_json(chunks[0] if len(chunks) == 1 else b"".join(chunks)))

        return work() if size <= INLINE_PARSE_BYTES else await self.in_thread(work)

    async def in_thread(self, work: Callable[[], _Result]) -> _Result:
        """Run `work`, the parsing of something large, in a thread once all earlier work is done."""
        async with self._parsing:
            return await asyncio.to_thread(work)


async def _read(request: Request, settings: RequestSettings) -> tuple[list[bytes], int]:
    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        _bound(int(announced), settings.body_bytes_max)
    chunks: list[bytes] = []
    size = values = counted = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            _bound(size, settings.body_bytes_max)
            chunks.append(chunk)
            if may_hold_values(settings.body_values_max, size):
                values += sum(map(count_values, chunks[counted:]))
                counted = len(chunks)
                require_values_max(values, settings.body_values_max)
    except ClientDisconnect:
        # No client reads this answer, but without it the log would report a defect of the server.
        raise RejectedRequest(
            "disconnected", "body: the client disconnected before its end"
        ) from None
    return chunks, size


def may_hold_values(values: int, size: int) -> bool:
    """Return whether `size` characters of JSON can have more than `values` values."""
    return 3 * size > values


def count_values(raw: bytes | str) -> int:
    """Return an estimate of the values in a piece of JSON, without parsing it.

    Characters within texts count, too. Lists and objects count two more, as they take most memory,
    and members three more, as each name is an object. So parsing a million takes about 60 ms,
    whatever the values are.
    """
    if isinstance(raw, str):
        return raw.count(",") + 2 * (raw.count("[") + raw.count("{")) + 3 * raw.count(":")
    return raw.count(b",") + 2 * (raw.count(b"[") + raw.count(b"{")) + 3 * raw.count(b":")


def require_values_max(values: int, limit: int, field: str = "body") -> None:
    """Raise RejectedRequest for too many values, since parsing holds the interpreter's lock."""
    if values > limit:
        raise RejectedRequest(
            "too_many",
            f"body_values_max: limit {limit} values in one {field} (lists and objects count "
            f"twice, members three times), got {values} or more",
            status=413,
            field=field,
            limit=limit,
            value=values,
        )


def _bound(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise RejectedRequest.over(
            "too_large",
            bytes_max,
            size,
            field="body",
            name="body_bytes_max",
            unit="bytes",
            status=413,
        )
