"""Errors as problem documents (RFC 9457): all exceptions become answers here."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from contracts.errors import (
    BrokerUnavailable,
    NotReady,
    RebuildFailed,
    RejectedRecord,
    RejectedRequest,
    SnapshotFailed,
    SnapshotRefused,
    TidelensError,
    TimedOut,
)

log = structlog.get_logger(__name__)

# Statuses after which the same request may succeed later, and the seconds to wait.
RETRIED = (429, 503, 504)
RETRY_AFTER_S = 1


def problem_members(error: TidelensError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the members of a problem document or an `error` message.

    The members are code and message, and field, limit and value if the error has them. An error of
    any other type is a defect, and is raised again.
    """
    match error:
        case RejectedRequest():
            return error.status, error.members()
        case RejectedRecord():
            return 400, error.members()
        case NotReady():
            return 503, {"code": "not_ready", "message": str(error)}
        case BrokerUnavailable():
            return 503, {"code": "broker_unavailable", "message": str(error)}
        case SnapshotFailed():
            return 503, {"code": "snapshot_failed", "message": str(error)}
        case SnapshotRefused():
            return 409, {"code": "snapshot_refused", "message": str(error)}
        case RebuildFailed():
            return 500, {"code": "rebuild_failed", "message": str(error)}
        case TimedOut():
            return 504, {"code": "timed_out", "message": str(error)}
    raise error


def problem(
    status: int, members: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a problem document: type, title, status, detail, and the error's own members."""
    own = dict(members)
    code = own.pop("code")
    body = {
        "type": f"urn:tidelens:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": own.pop("message"),
        "code": code,
        **own,
    }
    retry = {"retry-after": str(RETRY_AFTER_S)} if status in RETRIED else {}
    return Response(
        # The value comes from the request and may have any type; the answer must not fail on it.
        orjson.dumps(body, default=str),
        status,
        {**retry, **(headers or {})},
        media_type="application/problem+json",
    )


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error of Tidelens."""
    assert isinstance(error, TidelensError)
    try:
        return problem(*problem_members(error))
    except TidelensError:
        return await on_failure(request, error)


async def on_http_error(_: Request, error: Exception) -> Response:
    """Answer a request that the router refuses, such as one for an unknown path."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    members = {"code": code, "message": error.detail}
    return problem(error.status_code, members, headers=error.headers)


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer 500 for a defect, with its traceback in the log and no details in the answer."""
    log.error("request failed", path=request.url.path, error=repr(error), exc_info=error)
    return problem(500, {"code": "internal", "message": "an unexpected error; see the server log"})
