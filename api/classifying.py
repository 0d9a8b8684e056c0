"""POST /v1/classify: what a picture, a text, a vector or an item shows, of the labels given."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import json, read_json
from api.node import Node
from api.queries import vector_of
from contracts.errors import RejectedRequest, TimedOut
from contracts.messages import Classify, parse_classify
from contracts.prompts import prompts
from contracts.score import Vectors
from contracts.zero_shot import label_vectors, probabilities


class Classifying:
    """The endpoint. Prompts are encoded like any query's text, and kept in the same cache."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def post(self, request: Request) -> Response:
        began = perf_counter()
        settings = self._node.settings
        asked = parse_classify(await read_json(request, bytes_max=settings.body_bytes_max))
        limit, count = settings.classify_prompts_max, len(asked.labels) * len(asked.templates)
        if count > limit:
            raise RejectedRequest(
                "too_many",
                f"labels times templates: limit {limit}, got {count}",
                status=413,
                field="labels",
                limit=limit,
                value=count,
            )
        bound_s = min(asked.timeout_s or settings.wait_s_max, settings.wait_s_max)
        try:
            async with asyncio.timeout(bound_s):
                answer = await self._answer(asked)
        except TimeoutError:
            raise TimedOut(f"timeout_s: no answer within {bound_s:g} s") from None
        return json({**answer, "took_ms": round((perf_counter() - began) * 1000, 3)})

    async def _answer(self, asked: Classify) -> dict[str, Any]:
        node = self._node
        vector = (await vector_of(node, asked)).astype(np.float64)
        rows = await self._encoded(prompts(asked.labels, asked.templates))
        scores: list[float] = (label_vectors(asked.labels, rows) @ vector).tolist()
        scale = await node.queries.logit_scale()
        likely = probabilities(scores, scale)
        best = sorted(range(len(scores)), key=lambda n: (-scores[n], asked.labels[n]))[: asked.k]
        return {
            "labels": [
                {"label": asked.labels[n], "probability": likely[n], "score": scores[n]}
                for n in best
            ],
            "space": node.space.name,
            "logit_scale": scale,
        }

    async def _encoded(self, texts: Sequence[str]) -> list[Vectors]:
        """A batch at a time, so that searches get their turns between them."""
        found: list[Vectors] = []
        step = self._node.settings.query_batch_max
        for start in range(0, len(texts), step):
            some = texts[start : start + step]
            found += await asyncio.gather(*(self._node.queries.text(text) for text in some))
        return found
