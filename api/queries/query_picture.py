"""The picture of a query, given as base64 or as a reference.

A client may send any reference, so the reader behind the port checks the hosts that it connects to.
Unlike an encoder, a query does not wait: a reference that cannot be read now is refused.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from api.node import Node
from contracts.errors import RejectedRecord, RejectedRequest
from contracts.wire.client_messages import REF_CHARS_MAX, QueryImage
from contracts.wire.data_uri import decode_base64, is_reference

_FIELD = "image.ref"
# Base64 up to this length is decoded on the loop, since a thread would take as long.
_QUICK_CHARS = 256 * 1024


@asynccontextmanager
async def query_picture(node: Node, image: str | QueryImage) -> AsyncIterator[bytes]:
    """Yield the picture's bytes, which count as in memory until the context ends.

    Raises RejectedRequest for a picture that is too large or a reference that cannot be read now,
    and RejectedRecord for base64 or a reference that is wrong or not allowed.
    """
    data, ref, sha256 = _form_of(image)
    if data is not None:
        field = "image" if isinstance(image, str) else "image.data"
        if len(data) <= _QUICK_CHARS:
            yield _decoded(node, data, field)
        else:
            yield await asyncio.to_thread(_decoded, node, data, field)
        return
    assert ref is not None
    _require_remote(ref)
    async with AsyncExitStack() as stack:
        yield await _read(node, ref, sha256, stack)


def _form_of(image: str | QueryImage) -> tuple[str | None, str | None, str | None]:
    """Return base64, reference and SHA-256, each None if the query does not have it."""
    if isinstance(image, QueryImage):
        return image.data, image.ref, image.sha256
    return (None, image, None) if is_reference(image) else (image, None, None)


def _decoded(node: Node, image: str, field: str) -> bytes:
    data = decode_base64(image, field)
    limit = node.settings.image_bytes_max
    if len(data) > limit:
        raise RejectedRequest.over(
            "too_large", limit, len(data), field=field, unit="bytes", status=413
        )
    return data


def _require_remote(ref: str) -> None:
    if ref.lower().startswith("file:"):
        # Otherwise any client could have files of this server compared with its own.
        message = f"{_FIELD}: file: references are refused over HTTP; send the bytes in base64"
        raise RejectedRequest("file_reference", message, field=_FIELD)
    if len(ref) > REF_CHARS_MAX:
        raise RejectedRequest.over(
            "reference_invalid", REF_CHARS_MAX, len(ref), field=_FIELD, unit="characters"
        )


async def _read(node: Node, ref: str, sha256: str | None, stack: AsyncExitStack) -> bytes:
    limit_s = node.settings.query_reference_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            return await stack.enter_async_context(node.references.read(ref, sha256))
    except TimeoutError:
        raise RejectedRequest(
            "timed_out",
            f"{_FIELD}: not read within {limit_s:g} s (TIDELENS_QUERY_REFERENCE_TIMEOUT_S)",
            status=504,
            field=_FIELD,
            limit=limit_s,
        ) from None
    except RejectedRecord as error:
        if error.code != "reference_unreachable":
            raise
        # The query is correct, and may succeed a moment later.
        raise RejectedRequest(
            error.code,
            error.message,
            status=503,
            field=error.field,
            limit=error.limit,
            value=error.value,
        ) from None
