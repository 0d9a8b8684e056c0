"""The endpoints for operators of a running node: snapshots, rebuilds, tuning, verification."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.http.answers import ResponseWriter
from api.http.bodies import BodyReader
from api.node import Node
from contracts.errors import RejectedRequest
from contracts.topics import TARGETS, Target

# Entries of `targets`. There are two targets, but a list may name one several times.
_TARGETS_MAX = 8
_NAME_CHARS_MAX = 256


class AdminEndpoints:
    """The endpoints below /v1/admin."""

    def __init__(self, node: Node, responses: ResponseWriter, bodies: BodyReader) -> None:
        self._json = responses.json
        self._bodies = bodies
        self._admin = node.admin
        self._recent_queries = node.recent_queries
        self._replica = node.settings.replica

    async def snapshot(self, _: Request) -> Response:
        """Write a snapshot now, and answer with its name."""
        return await self._json(await self._admin.snapshot())

    async def restore(self, request: Request) -> Response:
        """Let the next start of this node restore the snapshot {"name": "REPLICA/NAME"}."""
        body = await self._bodies.json(request)
        name = body.get("name") if isinstance(body, dict) else None
        if not isinstance(name, str) or len(name) > _NAME_CHARS_MAX:
            raise RejectedRequest(
                "invalid_request",
                f"name: want a string of at most {_NAME_CHARS_MAX} characters",
                field="name",
                limit=_NAME_CHARS_MAX,
            )
        # Snapshots of another replica can be restored by its own node only.
        if not name.startswith(f"{self._replica}/"):
            raise RejectedRequest(
                "invalid_request", f"name: want {self._replica}/NAME, got {name!r}", field="name"
            )
        return await self._json(await self._admin.restore(name))

    async def rebuild(self, request: Request) -> Response:
        """Rebuild the sealed segments of {"targets": [...]}, or of all targets without a body."""
        targets: list[Target] = list(TARGETS)
        if "content-type" in request.headers:
            body = await self._bodies.json(request)
            targets = _targets(body)
        return await self._json({"rebuilt": await self._admin.rebuild(targets)})

    async def segments(self, _: Request) -> Response:
        """List the growing and sealed segments with their tuning tables."""
        return await self._json({"segments": self._admin.segments()})

    async def queries(self, _: Request) -> Response:
        """List the texts of recent queries, by which a new space is compared with this one."""
        return await self._json({"texts": self._recent_queries()})

    async def verify(self, _: Request) -> Response:
        """Recompute the digests from the rows, and answer whether they are right."""
        return await self._json(await self._admin.verify())


def _targets(body: Any) -> list[Target]:
    targets = body.get("targets", list(TARGETS)) if isinstance(body, dict) else None
    if (
        not isinstance(targets, list)
        or len(targets) > _TARGETS_MAX
        or any(target not in TARGETS for target in targets)
    ):
        raise RejectedRequest(
            "invalid_request",
            f"targets: want a list of {', '.join(TARGETS)}, at most {_TARGETS_MAX}",
            field="targets",
            limit=list(TARGETS),
        )
    return targets
