"""Foreign web pages can neither write nor open the WebSocket; a foreign Host reaches nothing."""

from typing import Any

import httpx
import pytest

from tests.kits.api_kit import Closed, Kit, serving

pytestmark = pytest.mark.anyio
HOST = "127.0.0.1:8080"


async def status(kit: Kit, method: str = "POST", **headers: str) -> int:
    query = {"text": "a"} if method == "POST" else None
    path = "/v1/search" if method == "POST" else "/v1/status"
    return (await kit.http.request(method, path, json=query, headers=headers)).status_code


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:1", "LOCALHOST:8080", "127.0.0.1", "127.8.9.1:80", "[::1]:8080"],
)
async def test_loopback_under_any_port(host: str) -> None:
    assert await status(Kit(), host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:8080",
        "",
        "10.0.0.5",
        "0.0.0.0",
        "[",
        "user@x",
        "::1",
        "evil@127.0.0.1",
        "evil@localhost:8080",
        "127.0.0.1:99999x",
        "127.0.0.1:99999",
        "127.0.0.1:0",
        "127.0.0.1:",
        "127.0.0.1:80:80",
        "localhost/x",
        "localhost#x",
        "localhost\\x",
        "localhost evil.example",
        "[::1]x:8080",
        "[::1]:8080]",
    ],
)
async def test_a_foreign_host_reaches_nothing(host: str) -> None:
    for method in ("GET", "POST"):
        assert await status(Kit(), method, host=host) == 403
    response = await Kit().http.get("/", headers={"host": host})
    assert response.json()["code"] == "host_not_allowed"


async def test_the_host_we_listen_on_and_those_allowed() -> None:
    kit = Kit(host="192.168.1.7", hosts_allowed=["search.example"])
    assert await status(kit, host="192.168.1.7:8080") == 200
    assert await status(kit, host="search.example") == 200
    assert await status(kit, host="other.example") == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (f"http://{HOST}", 200),
        (f"https://{HOST}", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:3000", 403),
        ("http://localhost:8080", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
        (f"http://evil.example/{HOST}", 403),
        (f"http://{HOST}@evil.example", 403),
    ],
)
async def test_where_a_write_may_come_from(origin: str, expected: int) -> None:
    kit = Kit()
    assert await status(kit, host=HOST, origin=origin) == expected
    item = {"target": "captions", "id": "a", "text": "x"}
    headers = {"origin": origin}
    assert (await kit.http.post("/v1/items", json=item, headers=headers)).status_code == expected
    deleted = await kit.http.delete("/v1/items/images/a", headers=headers)
    assert deleted.status_code == expected
    assert bool(kit.log.records) == (expected == 200)


READS = [
    "/v1/live?target=captions&text=a",
    "/v1/items/captions/a",
    "/v1/pictures/a",
    "/v1/admin/segments",
    "/v1/admin/queries",
    "/v1/lag",
    "/v1/status",
    "/metrics",
    "/healthz",
    "/",
]
EMBEDDED = {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
FRAMED = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
LINKED = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", **EMBEDDED},
        {"sec-fetch-site": "same-site", **EMBEDDED},  # another port of this host
        {"sec-fetch-site": "cross-site", **FRAMED},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "null"},
    ],
)
async def test_a_foreign_page_starts_no_read(headers: dict[str, str]) -> None:
    kit = Kit()
    for path in READS:
        response = await kit.http.get(path, headers=headers)
        assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed"), path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "none", **LINKED},
        {"sec-fetch-site": "same-origin", **EMBEDDED},
        {"sec-fetch-site": "cross-site", **LINKED},
        {"sec-fetch-site": "same-site", **LINKED},
        {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"},
    ],
)
async def test_programs_our_own_page_and_links_may_read(headers: dict[str, str]) -> None:
    assert await status(Kit(), "GET", **headers) == 200
    assert (await Kit().http.get("/", headers=headers)).status_code == 200


async def test_a_link_of_a_foreign_page_starts_no_stream() -> None:
    headers = {"sec-fetch-site": "cross-site", **LINKED}
    response = await Kit().http.get(READS[0], headers=headers)
    assert response.status_code == 403


async def test_an_allowed_page_may_read_and_names_itself() -> None:
    kit = Kit(hosts_allowed=["search.example"])
    page = {"origin": "https://search.example", "sec-fetch-site": "cross-site"}
    assert await status(kit, "GET", **page) == 200
    for origin in ("https://search.example:99999x", "https://x@search.example"):
        assert await status(kit, "GET", origin=origin) == 403


PROBED = ["/healthz", "/readyz", "/metrics"]
UNKNOWN = ["10.244.1.7:8080", "search.default.svc:8080", "evil.example", "", "["]


@pytest.mark.parametrize("host", UNKNOWN)
async def test_a_probe_under_an_unknown_host_learns_a_state(host: str) -> None:
    kit = Kit(host="0.0.0.0")
    answers = {path: await kit.http.get(path, headers={"host": host}) for path in PROBED}
    assert {answer.status_code for answer in answers.values()} == {200}
    assert answers["/healthz"].json() == {"alive": True}
    assert answers["/readyz"].json() == {"ready": True}
    assert "tidelens_ready" in answers["/metrics"].text
    kit.index.ready = False
    unready = await kit.http.get("/readyz", headers={"host": host})
    assert (unready.status_code, unready.json()) == (503, {"ready": False})
    # A client under a known Host learns why.
    assert "replaying" in (await kit.http.get("/readyz")).json()["reason"]


@pytest.mark.parametrize("host", UNKNOWN)
async def test_nothing_else_is_open_to_an_unknown_host(host: str) -> None:
    kit = Kit(host="0.0.0.0")
    paths = ["/", "/v1/status", "/v1/lag", "/v1/admin/segments", "/openapi.json", "/static/main.js"]
    for path in [*paths, "/metrics/", "/healthz/", "/v1/healthz", "/readyz/x"]:
        assert (await kit.http.get(path, headers={"host": host})).status_code == 403, path
    for path in PROBED:
        for headers in ({"origin": f"http://{host}"}, {"sec-fetch-site": "same-origin"}):
            refused = await kit.http.get(path, headers={"host": host, **headers})
            assert refused.status_code == 403, (path, headers)
        for method in ("POST", "DELETE"):
            refused = await kit.http.request(method, path, headers={"host": host})
            assert refused.status_code == 403, (path, method)


async def test_probes_reach_a_node_that_listens_on_every_address() -> None:
    kit = Kit(host="0.0.0.0")
    async with (
        serving(kit.app, kit.settings, host="0.0.0.0") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.2:{port}", trust_env=False) as probe,
    ):
        headers = {"host": f"10.244.1.7:{port}"}
        for path in PROBED:
            assert (await probe.get(path, headers=headers)).status_code == 200, path
        assert (await probe.get("/v1/status", headers=headers)).status_code == 403
        assert (await probe.get("/v1/status")).status_code == 200
        assert (await probe.post("/healthz")).status_code == 405


async def test_two_hosts_are_none() -> None:
    headers = [("host", HOST), ("host", "evil.example")]
    assert (await Kit().http.get("/healthz", headers=headers)).status_code == 403


async def test_an_allowed_host_may_be_an_origin() -> None:
    kit = Kit(hosts_allowed=["search.example"])
    assert await status(kit, origin="https://search.example:444") == 200


async def test_a_form_of_a_foreign_page_cannot_write_even_without_an_origin() -> None:
    kit = Kit()
    response = await kit.http.post("/v1/items", data={"target": "captions"})
    assert response.status_code == 415


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ],
)
async def test_the_socket_is_closed_before_it_is_accepted(headers: dict[str, Any]) -> None:
    async with Kit().live(headers) as socket:
        with pytest.raises(Closed):
            await socket.accepted()


@pytest.mark.parametrize("headers", [{}, {"origin": f"http://{HOST}"}])
async def test_our_own_page_and_no_page_may_open_it(headers: dict[str, Any]) -> None:
    async with Kit().live(headers) as socket:
        await socket.accepted()


async def test_the_page_keeps_to_itself() -> None:
    for path in ("/", "/healthz", "/static/none.js"):
        headers = (await Kit().http.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_nothing_outside_the_static_folder_is_served() -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert (await Kit().http.get(path)).status_code == 404
