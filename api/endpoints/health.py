"""The endpoints for operators and orchestrators: lag, status, metrics, liveness, readiness."""

import asyncio
from collections.abc import Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from api.http.answers import ResponseWriter
from api.http.guard import visible_readiness
from api.node import Node
from api.queries.freshness import Freshness, not_ready_reason
from contracts.errors import NotReady
from contracts.topics import TARGETS
from contracts.wire.message_json import wire_as_of, wire_lag


class HealthEndpoints:
    """The endpoints that show the state of one node."""

    def __init__(self, node: Node, freshness: Freshness, responses: ResponseWriter) -> None:
        self._node = node
        self._json = responses.json
        self._freshness = freshness

    async def healthz(self, _: Request) -> Response:
        """Answer 200 to show that the event loop runs."""
        return await self._json({"alive": True})

    async def readyz(self, request: Request) -> Response:
        """Answer 200 if this node can answer searches, otherwise 503.

        An unreachable broker does not make a node unready.
        """
        readiness = await self._readiness(self._node.status())
        body = visible_readiness(request.scope, readiness)
        return await self._json(body, 200 if readiness["ready"] else 503)

    async def lag(self, _: Request) -> Response:
        """Answer with the lag of each group in each partition.

        It is measured now, or is that of the last measurement if the broker does not answer.
        """
        lags = await self._freshness.measure()
        freshness, space = self._freshness, self._node.space.name
        behind_s = freshness.behind_s()
        return await self._json(
            wire_lag(lags, space=space, broker=freshness.broker, behind_s=behind_s)
        )

    async def status(self, _: Request) -> Response:
        """Answer with the node's space, state, items and readiness."""
        node, own = self._node, self._node.status()
        body: dict[str, Any] = {
            **await self._readiness(own),
            "space": {
                "name": node.space.name,
                "model": node.space.model,
                "revision": node.space.revision,
                "dim": node.space.dim,
                "metric": node.space.metric,
                "fingerprint": node.space.fingerprint.hex(),
            },
            "shard": node.settings.shard,
            "replica": node.settings.replica,
            "time": node.clock.now(),
        }
        try:
            body["as_of"] = wire_as_of(node.searcher.as_of())
            body["items"] = {target: node.progress.count(target) for target in TARGETS}
        except NotReady:
            body["as_of"] = body["items"] = None
        return await self._json({**body, **own})

    async def metrics(self, _: Request) -> Response:
        """Answer with all metrics in Prometheus's text format."""
        # In a thread, since the process collector reads files.
        text = await asyncio.to_thread(generate_latest, self._node.exposed)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def _readiness(self, status: Mapping[str, Any]) -> dict[str, Any]:
        reason = await not_ready_reason(self._node)
        return {
            "ready": reason is None,
            "reason": reason,
            "broker": self._freshness.broker,
            "behind_s": self._freshness.behind_s(),
            # These show what an operator should know although the node stays ready: snapshots that
            # cannot be written, topics that were changed, and parts that are being restarted.
            "snapshot": status.get("snapshot"),
            "topics": status.get("topics"),
            "parts": status.get("parts", []),
        }
