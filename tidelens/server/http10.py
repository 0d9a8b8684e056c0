"""Answers without a length for HTTP/1.0 clients, which cannot read chunks."""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def close_delimited(app: ASGIApp, cycle: RequestResponseCycle) -> Any:
    """Return `app`, wrapped so that an answer without a length ends with the connection.

    uvicorn would send chunks, which HTTP/1.0 does not have.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        has_length = False

        async def unframed(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                names = [name.lower() for name, _ in message.get("headers", ())]
                has_length = b"content-length" in names
                if not has_length:
                    cycle.chunked_encoding = False
            elif not has_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, unframed)

    return answered
