"""No request takes the event loop for long, whatever it asks for: every route at its limits.

Time is the thread's own processor time in one turn of the loop. A route without a case fails.
"""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from starlette.routing import Mount, Route, WebSocketRoute

from contracts.ports import Lag
from contracts.score import unit
from contracts.settings import MIB
from contracts.topics import TARGETS
from tests.api_kit import NAMES, Kit, RealIndex
from tests.loop_turns import Served, served

LIMIT_MS = 50.0
DIM = 512
ITEMS = 1000
LONG = "läng " * 2_000
METADATA = {f"name-{n}": "x" * 150 for n in range(90)}


def filled() -> Kit:
    """Images with little text, captions with as much as there may be."""
    kit = Kit(index=RealIndex(DIM), dim=DIM, k_max=ITEMS, wait_s_max=60.0)
    rows = unit(np.random.default_rng(5).standard_normal((ITEMS, DIM)))
    kit.index.batch([("images", f"i{n}", rows[n], {"metadata": {"n": n}}) for n in range(ITEMS)])
    rest = {"text": LONG, "metadata": METADATA}
    kit.index.batch([("captions", f"c{n}", rows[n], rest) for n in range(ITEMS)])
    kit.lag.lags = [
        Lag(role, f"group-{role}", NAMES.content(target), n, 1, 2, 1, 1.5, "hash-v1")
        for role in ("encode", "index")
        for target in TARGETS
        for n in range(4096)
    ]
    kit.recent = [LONG] * 1000
    digest = {"topic": "topic", "partition": 1, "offset": 1, "digest": "0" * 32}
    kit.status = {"digests": [digest] * 8192, "snapshot": None}
    return kit


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(filled) as server:
        yield server


class Client:
    """Asks, and looks at the status."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self._http = httpx.Client(base_url=server.url, timeout=120, trust_env=False)

    def get(self, path: str, status: int = 200) -> httpx.Response:
        return self._checked(self._http.get(path), status)

    def post(self, path: str, body: Any, status: int = 200) -> httpx.Response:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"content-type": "application/json"}
        return self._checked(self._http.post(path, content=raw, headers=headers), status)

    def delete(self, path: str) -> httpx.Response:
        return self._checked(self._http.delete(path), 200)

    def _checked(self, response: httpx.Response, status: int) -> httpx.Response:
        assert response.status_code == status, response.text[:500]
        return response

    def close(self) -> None:
        self._http.close()


Case = Callable[[Client], object]
WHOLE = {"text": "x", "target": "images", "k": ITEMS}
NUMBERS = [round(0.001 * n, 6) for n in range(DIM)]


def picture(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


def filters(count: int) -> list[Any]:
    values = [f"{n}" for n in range(count)]
    parts = [{"in": {f"f{n}": values}} for n in range(60)]
    return [{**WHOLE, "k": 1, "filter": {"or": parts}} for _ in range(64)]


SEARCHES: dict[str, Case] = {
    "all the vectors": lambda c: c.post("/v1/search", [{**WHOLE, "include": ["vector"]}] * 3),
    "all the hits": lambda c: c.post("/v1/search", [WHOLE] * 64),
    "long texts": lambda c: c.post("/v1/search", {**WHOLE, "target": "captions", "k": 700}),
    "too long texts": lambda c: c.post("/v1/search", [{**WHOLE, "target": "captions"}] * 2, 400),
    "a large picture": lambda c: c.post("/v1/search", {"image": picture(19 * MIB)}),
    "many vectors": lambda c: c.post(
        "/v1/search", [{"fuse": [{"vector": NUMBERS}] * 16, "k": 1}] * 64
    ),
    "a filter of many values": lambda c: c.post("/v1/search", filters(200)),
    "more values than may be": lambda c: c.post("/v1/search", b"[" + b"[]," * 8 * MIB, 413),
    "unknown members": lambda c: c.post("/v1/search", {f"x{n}": n for n in range(400_000)}, 400),
    "wrong numbers": lambda c: c.post("/v1/search", {"vector": ["x"] * 400_000}, 400),
}
ITEM = {"target": "captions", "text": LONG, "metadata": METADATA}
PUBLISHED: dict[str, Case] = {
    "captions": lambda c: c.post("/v1/items", [{**ITEM, "id": f"{n}"} for n in range(900)]),
    "pictures": lambda c: c.post(
        "/v1/items",
        [{"target": "images", "id": f"{n}", "image": picture(3 * MIB // 2)} for n in range(14)],
    ),
    "wrong ones": lambda c: c.post("/v1/items", [{"x": 1, "y": 2}] * 1000, 400),
}
LABELS = [f"label {n}" for n in range(4096)]
CLASSIFIED: dict[str, Case] = {
    "all prompts": lambda c: c.post("/v1/classify", {"text": "x", "labels": LABELS, "k": 4096}),
    "too many": lambda c: c.post("/v1/classify", {"text": "x", "labels": ["a"] * 900_000}, 413),
}

CASES: dict[tuple[str, str], dict[str, Case]] = {
    ("POST", "/v1/search"): SEARCHES,
    ("POST", "/v1/classify"): CLASSIFIED,
    ("POST", "/v1/items"): PUBLISHED,
    ("GET", "/v1/items/{target}/{id:path}"): {"": lambda c: c.get("/v1/items/captions/c1")},
    ("DELETE", "/v1/items/{target}/{id:path}"): {"": lambda c: c.delete("/v1/items/captions/c1")},
    ("GET", "/v1/pictures/{id:path}"): {"": lambda c: c.get("/v1/pictures/i1", 404)},
    ("POST", "/v1/admin/snapshot"): {"": lambda c: c.post("/v1/admin/snapshot", None)},
    ("POST", "/v1/admin/restore"): {
        "": lambda c: c.post("/v1/admin/restore", {"name": "x" * 30 * MIB}, 400)
    },
    ("POST", "/v1/admin/rebuild"): {
        "": lambda c: c.post("/v1/admin/rebuild", {"targets": ["images"] * 400_000}, 400)
    },
    ("GET", "/v1/admin/segments"): {"": lambda c: c.get("/v1/admin/segments")},
    ("GET", "/v1/admin/queries"): {"": lambda c: c.get("/v1/admin/queries")},
    ("POST", "/v1/admin/verify"): {"": lambda c: c.post("/v1/admin/verify", None)},
    ("GET", "/v1/lag"): {"": lambda c: c.get("/v1/lag")},
    ("GET", "/v1/status"): {"": lambda c: c.get("/v1/status")},
    ("GET", "/metrics"): {"": lambda c: c.get("/metrics")},
    ("GET", "/healthz"): {"": lambda c: c.get("/healthz")},
    ("GET", "/readyz"): {"": lambda c: c.get("/readyz")},
    ("GET", "/"): {"": lambda c: c.get("/")},
    ("GET", "/static"): {"": lambda c: c.get("/static/live.js")},
    ("GET", "/openapi.json"): {"": lambda c: c.get("/openapi.json")},
    ("GET", "/asyncapi.json"): {"": lambda c: c.get("/asyncapi.json")},
}


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    client = Client(server)
    server.longest_ms()
    yield client
    client.close()


def short(server: Served) -> None:
    longest_ms = server.longest_ms()
    print(f"{longest_ms:.1f} ms")
    assert longest_ms <= LIMIT_MS


@pytest.mark.parametrize(
    ("route", "name"), [(route, name) for route, cases in CASES.items() for name in cases]
)
def test_a_request_takes_no_turn_for_long(
    client: Client, route: tuple[str, str], name: str
) -> None:
    CASES[route][name](client)
    short(client.server)


def test_every_route_has_a_case(server: Served) -> None:
    known = {*CASES, ("LIVE", "/v1/live"), ("GET", "/v1/live")}
    for route in server.kit.app.routes:
        if isinstance(route, WebSocketRoute):
            assert ("LIVE", route.path) in known
        elif isinstance(route, Mount):
            assert ("GET", route.path) in known
        else:
            assert isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}:
                assert (method, route.path) in known
