"""Answers that the server gives itself, where the app gave none, as problem documents."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from starlette.responses import Response

from api.http.problems import problem


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client has to go: an HTTP status, and the members of the problem document."""

    status: int
    code: str
    message: str
    field: str | None = None
    limit: float | None = None

    def members(self) -> dict[str, Any]:
        named = {"field": self.field, "limit": self.limit}
        given = {name: value for name, value in named.items() if value is not None}
        return {"code": self.code, "message": self.message, **given}


# Sent where the app failed before it sent an answer of its own.
FAILED = Refusal(500, "internal", "an unexpected error; see the server log")
# A client that tries again reaches the server that replaces this one.
STOPPING = Refusal(503, "stopping", "the server is stopping; try again in a moment")


@lru_cache(maxsize=64)
def as_response(refusal: Refusal) -> Response:
    return problem(refusal.status, refusal.members(), headers={"connection": "close"})


@lru_cache(maxsize=64)
def as_bytes(refusal: Refusal) -> bytes:
    """Return the whole answer as it goes over HTTP/1.1."""
    response = as_response(refusal)
    lines = [name + b": " + value for name, value in response.raw_headers]
    head = b"\r\n".join([b"HTTP/1.1 %d Refused" % refusal.status, *lines, b"", b""])
    return head + cast(bytes, response.body)


def too_late(name: str, limit: float, what: str) -> Refusal:
    return Refusal(408, "timed_out", f"{name}: limit {limit:g} s for {what}", name, limit)


def too_large(what: str, limit: int) -> Refusal:
    return Refusal(431, "too_large", f"{what}: limit {limit}", "request", limit)
