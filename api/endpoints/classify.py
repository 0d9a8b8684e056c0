"""POST /v1/classify: the given labels that fit a picture, a text, a vector or an item best."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from api.http.answers import ResponseWriter
from api.http.bodies import BodyReader
from api.http.deadline import time_limit
from api.node import Node
from api.queries.prepare import content_vector
from contracts.errors import RejectedRequest
from contracts.prompts import fill_templates
from contracts.score import Vectors
from contracts.wire.client_messages import Classify
from contracts.wire.parser import parse_classify
from contracts.zero_shot import label_vectors, probabilities


class ClassifyEndpoint:
    """The endpoint. Its prompts are encoded and cached like the texts of queries."""

    def __init__(self, node: Node, responses: ResponseWriter, bodies: BodyReader) -> None:
        self._node = node
        self._json = responses.json
        self._bodies = bodies

    async def post(self, request: Request) -> Response:
        """Answer with the `k` best labels, their probabilities and scores."""
        began = perf_counter()
        settings = self._node.settings
        asked = await self._bodies.parsed(request, self._parsed)
        async with time_limit(settings.wait_s_max, [asked.timeout_s], "timeout_s: no answer"):
            answer = await self._answer(asked)
        return await self._json({**answer, "took_ms": round((perf_counter() - began) * 1000, 3)})

    def _parsed(self, body: Any) -> Classify:
        """Parse the body; labels are counted before they are checked one by one."""
        self._bound(body.get("labels") if isinstance(body, dict) else (), ())
        asked = parse_classify(body)
        self._bound(asked.labels, asked.templates)
        return asked

    def _bound(self, labels: Any, templates: Sequence[str]) -> None:
        limit = self._node.settings.classify_prompts_max
        count = len(labels) * max(len(templates), 1) if isinstance(labels, list) else 0
        if count > limit:
            raise RejectedRequest.over(
                "too_many", limit, count, field="labels", name="labels times templates", status=413
            )

    async def _answer(self, asked: Classify) -> dict[str, Any]:
        node = self._node
        vector = (await content_vector(node, asked)).astype(np.float64)
        rows = await self._encoded(fill_templates(asked.labels, asked.templates))
        # In a thread, since 4,096 prompts are 16 MB of numbers to sum.
        scores = await asyncio.to_thread(_scores, asked.labels, rows, vector)
        scale = await node.queries.logit_scale()
        likely = probabilities(scores, scale)
        best = sorted(range(len(scores)), key=lambda n: (-scores[n], asked.labels[n]))[: asked.k]
        return {
            "labels": (
                {"label": asked.labels[n], "probability": likely[n], "score": scores[n]}
                for n in best
            ),
            "space": node.space.name,
            "logit_scale": scale,
        }

    async def _encoded(self, texts: Sequence[str]) -> list[Vectors]:
        """Return a vector (dim,) for each text.

        One batch is encoded at a time, so that searches are encoded between the batches.
        """
        found: list[Vectors] = []
        step = self._node.settings.query_batch_max
        for start in range(0, len(texts), step):
            some = texts[start : start + step]
            found += await asyncio.gather(*(self._node.queries.text(text) for text in some))
        return found


def _scores(
    labels: Sequence[str], rows: Sequence[Vectors], vector: NDArray[np.float64]
) -> list[float]:
    found: list[float] = (label_vectors(labels, rows) @ vector).tolist()
    return found
