"""Problem documents that the server sends itself, where the application gave no answer."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from starlette.responses import Response

from api.http.problems import problem


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for refusing a client: an HTTP status, and members of the problem document."""

    status: int
    code: str
    message: str
    field: str | None = None
    limit: float | None = None

    def members(self) -> dict[str, Any]:
        """Return the members of the problem document that are not None."""
        named = {"field": self.field, "limit": self.limit}
        given = {name: value for name, value in named.items() if value is not None}
        return {"code": self.code, "message": self.message, **given}


# Sent if the application failed before it sent an answer of its own.
FAILED = Refusal(500, "internal", "an unexpected error; see the server log")
# A client that tries again may reach the server that replaces this one.
STOPPING = Refusal(503, "stopping", "the server is stopping; try again in a moment")


@lru_cache(maxsize=64)
def as_response(refusal: Refusal) -> Response:
    """Return the refusal as a response that closes its connection."""
    return problem(refusal.status, refusal.members(), headers={"connection": "close"})


@lru_cache(maxsize=64)
def as_bytes(refusal: Refusal) -> bytes:
    """Return the refusal as the bytes of a whole HTTP/1.1 response."""
    response = as_response(refusal)
    lines = [name + b": " + value for name, value in response.raw_headers]
    head = b"\r\n".join([b"HTTP/1.1 %d Refused" % refusal.status, *lines, b"", b""])
    return head + cast(bytes, response.body)


def too_late(name: str, limit: float, what: str) -> Refusal:
    """Return the refusal of a client that needed more than `limit` seconds for `what`."""
    return Refusal(408, "timed_out", f"{name}: limit {limit:g} s for {what}", name, limit)


def too_large(what: str, limit: int) -> Refusal:
    """Return the refusal of a request whose `what` exceeds `limit`, in bytes or in headers."""
    return Refusal(431, "too_large", f"{what}: limit {limit}", "request", limit)
