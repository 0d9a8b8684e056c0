"""What an operator asks of a running node: snapshots, rebuilds, tuning, verification."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.bodies import json, read_json
from api.node import Node
from contracts.errors import RejectedRequest
from contracts.topics import TARGETS, Target


class Admin:
    """The endpoints below /v1/admin."""

    def __init__(self, node: Node) -> None:
        self._admin = node.admin
        self._recent_queries = node.recent_queries
        self._body_bytes_max = node.settings.body_bytes_max
        self._replica = node.settings.replica

    async def snapshot(self, _: Request) -> Response:
        """Write one now; its name."""
        return json(await self._admin.snapshot())

    async def restore(self, request: Request) -> Response:
        """Begin from {"name": "REPLICA/NAME"} at the next start."""
        body = await read_json(request, bytes_max=self._body_bytes_max)
        name = body.get("name") if isinstance(body, dict) else None
        # Another replica's snapshots are for its own node to choose from.
        if not isinstance(name, str) or not name.startswith(f"{self._replica}/"):
            raise RejectedRequest(
                "invalid_request", f"name: want {self._replica}/NAME, got {name!r}", field="name"
            )
        return json(await self._admin.restore(name))

    async def rebuild(self, request: Request) -> Response:
        """Build the sealed segments of {"targets": [...]} anew, of all without a body."""
        targets: list[Target] = list(TARGETS)
        if "content-type" in request.headers:
            body = await read_json(request, bytes_max=self._body_bytes_max)
            targets = _targets(body)
        return json({"rebuilt": await self._admin.rebuild(targets)})

    async def segments(self, _: Request) -> Response:
        """Sealed segments with their tuning tables."""
        return json({"segments": self._admin.segments()})

    async def queries(self, _: Request) -> Response:
        """Texts asked lately: what a new space is compared on."""
        return json({"texts": self._recent_queries()})

    async def verify(self, _: Request) -> Response:
        """Recompute the digests from the rows."""
        return json(await self._admin.verify())


def _targets(body: Any) -> list[Target]:
    targets = body.get("targets", list(TARGETS)) if isinstance(body, dict) else None
    if not isinstance(targets, list) or any(target not in TARGETS for target in targets):
        raise RejectedRequest(
            "invalid_request",
            f"targets: want a list of {', '.join(TARGETS)}, got {targets!r}",
            field="targets",
        )
    return targets
