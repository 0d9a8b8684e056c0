"""No request takes the event loop for long, whatever it asks for: every route at its limits.

Time is the thread's own processor time in one turn of the loop. A route without a case fails.
"""

import base64
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.sync.client import ClientConnection, connect

from contracts.events.content_event import Content, content_record
from contracts.ports.lag import Lag
from contracts.score import unit
from contracts.settings import MIB
from contracts.topics import TARGETS, Target
from tests.kits.api_kit import NAMES, Kit, RealIndex
from tests.kits.loop_turns import Served, served

LIMIT_MS = 50.0
DIM = 512
ITEMS = 1000
LONG = "läng " * 2_000
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(15 * MIB)
METADATA = {f"name-{n}": "x" * 150 for n in range(90)}


def filled() -> Kit:
    """Return images with little text, and captions with as much as is allowed."""
    kit = Kit(index=RealIndex(DIM), dim=DIM, k_max=ITEMS, wait_s_max=60.0)
    rows = unit(np.random.default_rng(5).standard_normal((ITEMS, DIM)))
    content = Content(target="images", id="picture", image=PICTURE)
    kit.log._append(content_record(NAMES.content("images"), content))
    kit.index.put("images", "picture", rows[0])
    kit.index.batch([("images", f"i{n}", rows[n], {"metadata": {"n": n}}) for n in range(1, ITEMS)])
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


def require(true: bool) -> None:
    assert true


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
    "unknown members": lambda c: c.post("/v1/search", {f"x{n}": n for n in range(200_000)}, 400),
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
    ("GET", "/v1/items/{target}/{id:rest}"): {"": lambda c: c.get("/v1/items/captions/c1")},
    ("DELETE", "/v1/items/{target}/{id:rest}"): {"": lambda c: c.delete("/v1/items/captions/c1")},
    ("GET", "/v1/pictures/{id:rest}"): {
        "": lambda c: require(c.get("/v1/pictures/picture").content == PICTURE)
    },
    ("GET", "/v1/items/{target}"): {"": lambda c: c.get("/v1/items/captions?id=c1")},
    ("DELETE", "/v1/items/{target}"): {"": lambda c: c.delete("/v1/items/captions?id=c1")},
    ("GET", "/v1/pictures"): {"": lambda c: c.get("/v1/pictures?id=i1", 404)},
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
    ("GET", "/static"): {"": lambda c: c.get("/static/client/connection.js")},
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


def subscription(sub: str, mode: str = "top", cursor: str | None = None, **query: Any) -> str:
    asked = {"op": "subscribe", "sub": sub, "mode": mode, "cursor": cursor, "query": query}
    return orjson.dumps(asked).decode()


def opened(server: Served) -> ClientConnection:
    url = f"ws://127.0.0.1:{server.port}/v1/live"
    return connect(url, max_size=None, compression=None, proxy=None)


def received(socket: ClientConnection, kind: str) -> Any:
    message = orjson.loads(socket.recv(60))
    assert message["type"] == kind, str(message)[:500]
    return message


def changed(server: Served, target: Target, count: int, **rest: Any) -> None:
    """Publish some items again that many lists hold, in one batch."""
    rows = unit(np.random.default_rng(count).standard_normal((count, DIM)))
    batch = [(target, f"{target[0]}{n}", row, rest) for n, row in enumerate(rows)]
    server.call(lambda: server.kit.index.batch(batch))


def snapshots(socket: ClientConnection, server: Served) -> None:
    socket.send(subscription("vectors", **WHOLE, include=["vector"]))
    assert len(received(socket, "snapshot")["hits"]) == ITEMS
    socket.send(subscription("texts", **WHOLE | {"target": "captions", "k": 400}))
    assert len(received(socket, "snapshot")["hits"]) == 400


def many_lists(socket: ClientConnection, server: Served) -> None:
    for n in range(100):
        socket.send(subscription(f"s{n}", **WHOLE | {"text": f"word-{n}"}))
    assert {received(socket, "snapshot")["sub"] for _ in range(100)} == {
        f"s{n}" for n in range(100)
    }


def deltas(socket: ClientConnection, server: Served) -> None:
    for n in range(8):
        query = WHOLE | {"text": f"word-{n}", "target": "captions", "k": 400}
        socket.send(subscription(f"s{n}", **query))
    for _ in range(8):
        received(socket, "snapshot")
    changed(server, "captions", 50, text=LONG, metadata=METADATA)
    assert len({received(socket, "delta")["sub"] for _ in range(8)}) == 8


def resuming(socket: ClientConnection, server: Served) -> None:
    socket.send(subscription("a", **WHOLE))
    cursor = received(socket, "snapshot")["cursor"]
    for n in range(90):
        socket.send(subscription(f"r{n}", cursor=cursor, **WHOLE))
    for _ in range(90):
        received(socket, "resumed")


def matches(socket: ClientConnection, server: Served) -> None:
    for n in range(20):
        among = {"in": {"lang": [str(i) for i in range(900)]}}
        condition = {"or": [{"exists": "n"}, {"exists": f"{n}"}, among]}
        query = {"text": "x", "include": ["vector"], "filter": condition}
        socket.send(subscription(f"m{n}", "matches", **query))
        received(socket, "resumed")
    # They follow the index once they were read up to it; the log of this kit holds nothing.
    replay = server.kit.app.state.live.registry.replay
    while server.call(lambda: replay.waiting() + len(replay._workers)):
        sleep(0.01)
    changed(server, "images", 100, metadata={"n": 1})
    for _ in range(20):
        assert len(received(socket, "match")["hits"]) == 100


def large_frames(socket: ClientConnection, server: Served) -> None:
    socket.send(subscription("picture", image=picture(5 * MIB), k=1))
    received(socket, "snapshot")
    parts = [{"in": {f"f{n}": [f"{v}" for v in range(1000)]}} for n in range(60)]
    socket.send(subscription("filter", text="x", k=1, filter={"or": parts}))
    received(socket, "snapshot")
    socket.send("[" + "[]," * 2 * MIB)
    assert received(socket, "error")["code"] == "too_many"
    socket.send(subscription("wrong", text="x" * 7 * MIB))
    assert received(socket, "error")["sub"] == "wrong"
    socket.send(orjson.dumps({"op": "subscribe", "sub": "x", **dict.fromkeys(LABELS)}).decode())
    received(socket, "error")


def event_stream(socket: ClientConnection, server: Served) -> None:
    query = orjson.dumps({**WHOLE, "include": ["vector"]}).decode()
    with httpx.stream("GET", f"{server.url}/v1/live", params={"query": query}) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                assert len(orjson.loads(line[6:])["hits"]) == ITEMS
                break


@pytest.mark.parametrize(
    "talk",
    [snapshots, many_lists, deltas, resuming, matches, large_frames, event_stream],
    ids=lambda talk: talk.__name__,
)
def test_a_live_message_takes_no_turn_for_long(
    server: Served, talk: Callable[[ClientConnection, Served], None]
) -> None:
    with opened(server) as socket:
        server.longest_ms()
        talk(socket, server)
    # All is let go of as well.
    while server.kit.sample("tidelens_live_connections"):
        sleep(0.01)
    short(server)


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
