"""Requests and a live list on a node in memory: recorded for a release, asked again ever since."""

from typing import Any

import orjson

from tests.kits.api_kit import Kit


async def asked() -> list[dict[str, Any]]:
    """Requests with their answers, and what a live list sends."""
    kit = Kit()
    kit.caption("a", "red cat", item="p1", metadata={"lang": "en"})
    kit.caption("b", "red dog", item="p1")
    kit.index.put("images", "p/1 ü.jpg", kit.text("red cat"))
    found: list[dict[str, Any]] = []
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/v1/search", {"text": "red cat", "target": "captions", "include": ["vector"]}),
        ("POST", "/v1/search", [{"id": "a", "of": "captions"}, {"vector": [1.0] * 64, "k": 1}]),
        ("POST", "/v1/search", {"text": "red", "filter": {"nonsense": 1}}),
        ("POST", "/v1/classify", {"text": "red", "labels": ["red", "blue"]}),
        ("POST", "/v1/items", {"target": "captions", "id": "n", "text": "new"}),
        ("GET", "/v1/items/captions/a", None),
        ("GET", "/v1/lag", None),
        ("GET", "/v1/status", None),
        ("GET", "/readyz", None),
        ("GET", "/healthz", None),
    ]
    for method, path, body in requests:
        answer = await kit.http.request(method, path, json=body)
        kind = answer.headers["content-type"]
        found.append(
            {"method": method, "path": path, "body": body, "status": answer.status_code}
            | {"type": kind, "answer": orjson.loads(answer.content)}
        )
    sent: list[Any] = []
    async with kit.live() as socket:
        await socket.accepted()
        socket.subscribe("s", text="red cat", target="captions", k=2)
        sent.append(await socket.receive())
        kit.caption("n", "red red")
        sent.append(await socket.receive())
        socket.send(op="ping")
        sent.append(await socket.receive())
        socket.send(op="subscribe", sub="m", mode="matches", query={"text": "red", "min_score": 2})
        sent.append(await socket.receive())
    return [*found, {"live": sent}]
