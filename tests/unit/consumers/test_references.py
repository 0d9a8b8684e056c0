"""References against a real server on loopback, which does what servers of strangers may do."""

import asyncio
import contextlib
import errno
import gzip
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohappyeyeballs
import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from consumers.references import ReferenceLimits, References
from consumers.references.errors import reference_refused as make_refusal
from consumers.references.resolver import SystemLookup
from consumers.references.retry import AttemptFailed, ReferenceRetries
from contracts.errors import RejectedRecord

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

DATA = b"a picture"
HOST = "pictures.test"


@dataclass
class Site:
    """A server that counts, and remembers what it was asked."""

    port: int = 0
    asked: list[web.Request] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    at_once_max: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str, host: str = HOST) -> str:
        return f"http://{host}:{self.port}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/")
        self.asked.append(request)
        self.counts[path] += 1
        if path == "to":
            await asyncio.sleep(float(request.query.get("after_s", 0)))
            return web.Response(
                status=302,
                headers={"Location": request.query["url"], "Set-Cookie": "stolen=1"},
            )
        name, _, number = path.partition("-")
        made = getattr(self, f"_{name}")(request, *([int(number)] if number else []))
        response: web.StreamResponse = await made
        return response

    async def _good(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=DATA)

    async def _status(self, request: web.Request, status: int) -> web.StreamResponse:
        return web.Response(status=status)

    async def _later(self, request: web.Request, seconds: int) -> web.StreamResponse:
        if self.counts[request.path[1:]] == 1:
            return web.Response(status=429, headers={"Retry-After": str(seconds)})
        return web.Response(body=DATA)

    async def _flaky(self, request: web.Request, status: int) -> web.StreamResponse:
        if self.counts[request.path[1:]] <= 2:
            return web.Response(status=status)
        return web.Response(body=DATA)

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        await self.go.wait()
        self.at_once -= 1
        return web.Response(body=DATA)

    async def _gzip(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(DATA), headers={"Content-Encoding": "gzip"})

    async def _odd(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=DATA, headers={"Content-Encoding": "caf\udce9"})

    async def _away(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://[\udce9"})

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _short(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 50
        await response.prepare(request)
        await response.write(DATA)
        assert request.transport is not None
        request.transport.close()
        return response

    async def _claims(self, request: web.Request, size: int) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = size
        await response.prepare(request)
        await self.go.wait()
        return response

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1024))

    async def _trickle(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def served(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    found = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        found.go.set()
        await runner.cleanup()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with served() as found:
        yield found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate of HOST, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "host.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    files = ["-out", str(file), "-keyout", str(file.with_suffix(".key"))]
    subprocess.run([*command.split(), *name, *files], check=True, capture_output=True)
    return file


async def loopback(host: str, port: int, family: int) -> list[tuple[int, str]]:
    return [(socket.AF_INET, "127.0.0.1")]


class Time:
    """Sleeps pass at once, and tell how long they were."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += max(seconds, 0.1)
        await asyncio.sleep(0)

    def clock(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    site: Site, *, lookup: Any = loopback, time: Time | None = None, **limits: Any
) -> AsyncIterator[References]:
    time = time or Time()
    usual = ReferenceLimits(
        schemes=frozenset({"http", "https"}),
        ports=frozenset({site.port}),
        hosts_allowed=frozenset({HOST, "cdn.test"}),
        bytes_max=1000,
        timeout_s=5,
    )
    found = References(replace(usual, **limits), lookup=lookup, sleep=time.sleep, clock=time.clock)
    async with found as references:
        yield references


def patient(attempts_max: int) -> ReferenceRetries:
    time = Time()
    return ReferenceRetries(
        attempts_max=attempts_max, patience_s=1e9, sleep=time.sleep, clock=time.clock
    )


async def good() -> bytes:
    return DATA


async def read(references: References, ref: str, sha256: str | None = None) -> bytes:
    async with references.read(ref, sha256) as data:
        return data


async def reference_refused(
    references: References, ref: str, sha256: str | None = None
) -> RejectedRecord:
    with pytest.raises(RejectedRecord) as caught:
        await read(references, ref, sha256)
    assert caught.value.field in caught.value.message
    # As a dead letter's text, whatever bytes a server sent.
    orjson.dumps(caught.value.members())
    return caught.value


async def test_a_picture_is_read_and_compared_with_its_digest(site: Site) -> None:
    async with opened(site) as references:
        url = site.url("good")
        assert await read(references, url, hashlib.sha256(DATA).hexdigest()) == DATA
        changed = await reference_refused(references, url, "0" * 64)
    assert (changed.code, changed.field) == ("reference_changed", "image.sha256")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("status-401", "reference_missing"),
        ("status-404", "reference_missing"),
        ("status-410", "reference_missing"),
        ("status-204", "reference_missing"),
        ("status-302", "reference_missing"),
        ("gzip", "reference_invalid"),
        ("odd", "reference_invalid"),
        ("away", "reference_invalid"),
        ("claims-1001", "image_too_large_bytes"),
        ("endless", "image_too_large_bytes"),
    ],
)
async def test_what_is_bad_is_refused_at_once(site: Site, path: str, code: str) -> None:
    async with opened(site) as references:
        assert (await reference_refused(references, site.url(path))).code == code
    assert site.counts[path] == 1


@pytest.mark.parametrize("path", ["status-500", "status-429", "reset", "short"])
async def test_what_fails_is_tried_three_times(site: Site, path: str) -> None:
    time = Time()
    async with opened(site, time=time) as references:
        error = await reference_refused(references, site.url(path))
    assert (error.code, error.limit) == ("reference_unreachable", 3)
    # aiohttp itself asks again where a connection that was kept is closed.
    assert site.counts[path] >= 3
    assert len(time.slept) == 2


async def test_two_failures_are_survived(site: Site) -> None:
    async with opened(site) as references:
        assert await read(references, site.url("flaky-500")) == DATA
    assert site.counts["flaky-500"] == 3


@pytest.mark.parametrize(("asked_s", "waited_s"), [(7, 7), (86_400, 10)])
async def test_a_server_may_ask_for_a_pause_but_not_for_any(
    site: Site, asked_s: int, waited_s: int
) -> None:
    time = Time()
    async with opened(site, time=time) as references:
        assert await read(references, site.url(f"later-{asked_s}")) == DATA
    # Beside it the usual pause, at random.
    assert waited_s <= time.slept[0] <= waited_s + 1


async def test_what_no_http_server_says_is_not_repeated() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 secret.internal ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        other = Site(port=server.sockets[0].getsockname()[1])
        async with opened(other) as references:
            error = await reference_refused(references, other.url(""))
    assert error.code == "reference_unreachable"
    assert "secret" not in str(error.members())


async def test_few_connections_are_kept_for_later() -> None:
    open_now = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        open_now -= 1
        writer.close()

    hosts = [f"{number}.test" for number in range(60)]
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        other = Site(port=server.sockets[0].getsockname()[1])
        async with opened(other, hosts_allowed=frozenset(hosts)) as references:
            for host in hosts * 2:
                await reference_refused(references, other.url("", host))
            await asyncio.sleep(0.05)
            assert 0 < open_now <= 32


async def test_one_that_trickles_is_not_waited_for(site: Site) -> None:
    async with opened(site, timeout_s=0.2, attempts_max=1) as references:
        assert (
            await reference_refused(references, site.url("trickle"))
        ).code == "reference_unreachable"


async def test_redirects_have_their_time_together(site: Site) -> None:
    path = "/good"
    for _ in range(3):
        path = "/to?" + urlencode({"after_s": 0.15, "url": path})
    async with opened(site, timeout_s=0.3, attempts_max=1) as references:
        assert (
            await reference_refused(references, site.url(path[1:]))
        ).code == "reference_unreachable"
    assert site.counts["good"] == 0


async def test_redirects_are_followed_without_cookies(site: Site) -> None:
    async with opened(site) as references:
        url = site.url("to?url=" + site.url("to?url=/good", "cdn.test"))
        assert await read(references, url) == DATA
    assert [request.path for request in site.asked] == ["/to", "/to", "/good"]
    assert [request.host.split(":")[0] for request in site.asked] == [HOST, "cdn.test", "cdn.test"]
    for request in site.asked:
        assert not {"Cookie", "Authorization", "Referer"} & set(request.headers)
        assert request.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "target",
    [
        "http://private.test:{port}/good",
        "http://127.0.0.1:{port}/good",
        "http://2130706433:{port}/good",
        "http://[::ffff:127.0.0.1]:{port}/good",
        "//localhost:{port}/good",
        "http://pictures.test:1/good",
        "http://user:password@pictures.test:{port}/good",
        "file:///etc/passwd",
        "s3://bucket/key",
    ],
)
async def test_each_redirect_is_checked_as_the_first(site: Site, target: str) -> None:
    async with opened(site) as references:
        error = await reference_refused(
            references, site.url("to?url=" + target.format(port=site.port))
        )
    assert error.code == "reference_forbidden"
    assert site.counts == {"to": 1}


@pytest.mark.parametrize(
    ("host", "trusted", "code"),
    [
        (HOST, True, None),
        ("cdn.test", True, "reference_unreachable"),
        (HOST, False, "reference_unreachable"),
    ],
)
async def test_the_certificate_is_of_the_name_and_not_of_the_address(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool, code: str | None
) -> None:
    def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return server, ssl.create_default_context(cafile=certificate if trusted else None)

    server, client = await asyncio.to_thread(contexts)
    # Made when aiohttp is imported, of what the system trusts (SSL_CERT_FILE).
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", client)
    async with served(server) as site, opened(site) as references:
        url = site.url("good", host).replace("http:", "https:")
        if code is None:
            assert await read(references, url) == DATA
        else:
            error = await reference_refused(references, url)
            assert (error.code, site.asked) == (code, [])
            assert "certificate verify failed" in error.message


async def test_proxies_and_netrc_are_not_known(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text(f"machine {HOST} login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with opened(site) as references:
        assert await read(references, site.url("good")) == DATA
    assert "Authorization" not in site.asked[0].headers


async def test_no_redirect_leads_to_a_scheme_that_is_off(site: Site) -> None:
    target = f"https://{HOST}:{site.port}/good"
    async with opened(site, schemes=frozenset({"http"})) as references:
        error = await reference_refused(references, site.url("to?url=" + target))
    assert (error.code, error.limit, error.value) == ("reference_forbidden", ["http"], "https")


def test_a_refusal_is_json_whatever_a_server_sent() -> None:
    members = make_refusal("reference_invalid", "got \udce9", value="\udce9" * 1000).members()
    assert len(members["value"]) == 200
    orjson.dumps(members)


async def test_redirects_in_a_loop_end(site: Site) -> None:
    async with opened(site, redirects_max=2) as references:
        # A relative one without a query leads to itself.
        error = await reference_refused(
            references, site.url("to?url=?url=%3Furl%3D%253Furl%253D/good")
        )
        assert (error.code, error.limit) == ("reference_too_many_redirects", 2)
    assert site.counts["to"] == 3


async def test_what_was_checked_is_what_is_connected_to(site: Site) -> None:
    answers = [["203.0.114.1"], ["203.0.114.1", "127.0.0.1"], ["127.0.0.1"]]
    asked = 0

    async def rebinding(host: str, port: int, family: int) -> list[tuple[int, str]]:
        nonlocal asked
        asked += 1
        return [(socket.AF_INET, address) for address in answers[min(asked, 3) - 1]]

    connected: list[str] = []

    async def no_connection(addr_infos: Any, **_: Any) -> Any:
        connected.extend(info[4][0] for info in addr_infos)
        raise OSError(errno.ECONNREFUSED, "refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", no_connection)
        async with opened(site, lookup=rebinding) as references:
            error = await reference_refused(references, site.url("good", "rebinding.test"))
            assert error.code == "reference_forbidden"
            assert connected == ["203.0.114.1"]
            assert asked == 2
            error = await reference_refused(references, site.url("good", "rebinding.test"))
    assert (error.code, error.value) == ("reference_forbidden", "rebinding.test")
    assert connected == ["203.0.114.1"]
    assert site.asked == []


async def test_a_host_is_asked_for_few_at_once_and_others_go_on(site: Site) -> None:
    async with opened(site, per_host_max=2, held_max=3) as references:
        slow = [asyncio.create_task(read(references, site.url("slow"))) for _ in range(6)]
        while site.at_once < 2:
            await asyncio.sleep(0.01)
        assert await read(references, site.url("good", "cdn.test")) == DATA
        site.go.set()
        assert await asyncio.gather(*slow) == [DATA] * 6
    assert site.at_once_max == 2


@asynccontextmanager
async def strangers(site: Site, **limits: Any) -> AsyncIterator[References]:
    """Open references whose names lead to public addresses, at which the site answers."""
    connect = aiohappyeyeballs.start_connection

    async def public(host: str, port: int, family: int) -> list[tuple[int, str]]:
        return [(socket.AF_INET, "203.0.114.1")]

    async def to_the_site(addr_infos: Any, **how: Any) -> Any:
        there = [(*info[:4], ("127.0.0.1", site.port)) for info in addr_infos]
        return await connect(there, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", to_the_site)
        async with opened(site, lookup=public, **limits) as references:
            yield references


async def test_one_stranger_with_many_names_leaves_places_to_others(site: Site) -> None:
    names = ["a.slow.test", "b.slow.test", "c.d.SLOW.test", "slow.test.", "x--1.slow.test"]
    async with strangers(site, per_host_max=2, held_max=3) as references:
        slow = [
            asyncio.create_task(read(references, site.url("slow", name)))
            for name in names
            for _ in range(2)
        ]
        while site.at_once < 2:
            await asyncio.sleep(0.01)
        for _ in range(3):
            assert await read(references, site.url("good", "cdn.test")) == DATA
            assert await read(references, site.url("good", "other.test")) == DATA
        site.go.set()
        assert await asyncio.gather(*slow) == [DATA] * 10
    assert site.at_once_max == 2


async def test_a_redirect_counts_for_whom_it_leads_to(site: Site) -> None:
    async with strangers(site, per_host_max=2, held_max=3) as references:
        there = urlencode({"url": site.url("slow", "a.slow.test")})
        slow = [
            asyncio.create_task(read(references, site.url(f"to?{there}", f"{name}.test")))
            for name in "abcdef"
        ]
        while site.at_once < 2:
            await asyncio.sleep(0.01)
        assert await read(references, site.url("good", "a.test")) == DATA
        site.go.set()
        assert await asyncio.gather(*slow) == [DATA] * 6
    assert site.at_once_max == 2


async def test_pictures_in_memory_are_few(site: Site) -> None:
    async with opened(site, held_max=1) as references:
        other = None
        async with references.read(site.url("good"), None):
            other = asyncio.create_task(read(references, site.url("good", "cdn.test")))
            await asyncio.sleep(0.1)
            assert not other.done()
            assert site.counts["good"] == 1
        assert await other == DATA
        # A reader that fails, and one that is refused, leave their places too.
        with pytest.raises(ZeroDivisionError):
            async with references.read(site.url("good"), None):
                raise ZeroDivisionError
        await reference_refused(references, site.url("endless"))
        gone = asyncio.create_task(read(references, site.url("slow")))
        while not site.at_once:
            await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.wait([gone])
        assert await read(references, site.url("good")) == DATA


@pytest.mark.parametrize(
    "limits", [{"held_max": 1, "per_host_max": 50}, {"held_max": 50, "per_host_max": 1}]
)
async def test_the_pictures_of_one_partition_leave_permits_to_another(
    site: Site, limits: dict[str, int]
) -> None:
    """The pictures of one group are slow to decode and keep their permits; more of them wait."""
    began: list[str] = []
    async with opened(site, **limits) as references:

        async def hold(group: str) -> None:
            async with references.read(site.url("slow"), None, group):
                began.append(group)

        bombs = [asyncio.create_task(hold("bombs")) for _ in range(40)]
        while not site.at_once:
            await asyncio.sleep(0.01)
        good = asyncio.create_task(hold("good"))
        await asyncio.sleep(0.05)  # if it came later it would only be further behind
        site.go.set()
        await asyncio.gather(good, *bombs)
    assert began.index("good") <= 10


async def test_who_pauses_holds_no_memory(site: Site) -> None:
    paused = asyncio.Event()

    async def sleep(_: float) -> None:
        paused.set()
        await asyncio.Event().wait()

    time = Time()
    time.sleep = sleep  # type: ignore[method-assign]
    async with opened(site, time=time, held_max=1) as references:
        failing = asyncio.create_task(read(references, site.url("status-500", "cdn.test")))
        await paused.wait()
        try:
            async with asyncio.timeout(60):
                assert await read(references, site.url("good")) == DATA
        finally:
            failing.cancel()
        await asyncio.wait([failing])


async def test_slow_resolvers_of_strangers_leave_threads_to_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        go.wait(80)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    urls = [site.url("good", f"{number}.test") for number in range(40)]
    async with opened(site, lookup=None, held_max=40, attempts_max=1) as references:
        reading = [asyncio.create_task(reference_refused(references, url)) for url in urls]
        try:
            await asyncio.sleep(0.1)
            async with asyncio.timeout(60):
                assert await asyncio.to_thread(sum, [1, 2]) == 3
        finally:
            go.set()
        codes = {error.code for error in await asyncio.gather(*reading)}
    assert codes == {"reference_unreachable"}


@dataclass
class NameServers:
    """A name server that answers names with `slow` once `go` is set, and counts its questions."""

    asked: Counter[str] = field(default_factory=Counter)
    go: threading.Event = field(default_factory=threading.Event)

    def getaddrinfo(self, host: str, *_: Any, **__: Any) -> Any:
        self.asked[host] += 1
        if host.startswith("slow"):
            self.go.wait(80)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


@pytest.fixture
def name_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    found = NameServers()
    monkeypatch.setattr("socket.getaddrinfo", found.getaddrinfo)
    yield found
    found.go.set()


async def test_names_that_were_given_up_keep_no_thread_from_another(
    site: Site, name_servers: NameServers
) -> None:
    limits = {"held_max": 4, "timeout_s": 0.5, "attempts_max": 1}
    async with opened(site, lookup=None, **limits) as references:
        urls = [site.url("good", f"slow{number}.test") for number in range(8)]
        for error in await asyncio.gather(*(reference_refused(references, url) for url in urls)):
            assert error.code == "reference_unreachable"
        assert await read(references, site.url("good")) == DATA


async def test_a_name_has_one_lookup_whoever_asks(site: Site, name_servers: NameServers) -> None:
    lookup = SystemLookup(2)
    with lookup:
        impatient = asyncio.create_task(lookup("slow.test", 443, 0))
        patient = asyncio.create_task(lookup("SLOW.test", 80, 0))
        await asyncio.sleep(0.01)
        impatient.cancel()
        await asyncio.wait([impatient])
        later = asyncio.create_task(lookup("slow.test", 443, 0))
        assert await lookup("other.test", 443, 0) == [(socket.AF_INET, "127.0.0.1")]
        name_servers.go.set()
        assert await patient == await later == [(socket.AF_INET, "127.0.0.1")]
        assert name_servers.asked == {"slow.test": 1, "other.test": 1}
        # One that is over is not kept.
        await lookup("slow.test", 443, 0)
    assert name_servers.asked["slow.test"] == 2


async def test_a_lookup_that_finds_no_thread_waits_without_blame(
    site: Site, name_servers: NameServers
) -> None:
    time = Time()
    with SystemLookup(1) as lookup:
        slow = asyncio.create_task(lookup("slow.test", 443, 0))
        await asyncio.sleep(0)
        limits = {"attempts_max": 1, "patience_s": 30, "hosts_allowed": frozenset({HOST})}
        async with opened(site, lookup=lookup, time=time, **limits) as references:
            error = await reference_refused(references, site.url("good"))
            assert (error.code, error.limit) == ("reference_unreachable", 30)
            assert "all 1 lookups" in error.message
            assert len(time.slept) > 1
            name_servers.go.set()
            await slow
            # The host was not given up either.
            assert await read(references, site.url("good")) == DATA


async def test_a_crowd_is_no_fault_of_a_host_whatever_else_came_through() -> None:
    retrying = patient(attempts_max=1)
    tried = 0

    async def crowded() -> bytes:
        nonlocal tried
        tried += 1
        assert retrying.waiting == (tried > 1)
        await retrying.read_with_retries(good)
        if tried <= 5:
            raise AttemptFailed("host", "no thread", crowded=True)
        return DATA

    assert await retrying.read_with_retries(crowded) == DATA


async def test_while_the_resolver_is_down_references_wait(site: Site) -> None:
    down, time = True, Time()

    async def lookup(host: str, port: int, family: int) -> list[tuple[int, str]]:
        if down:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return await loopback(host, port, family)

    async with opened(site, lookup=lookup, time=time) as references:
        reading = asyncio.create_task(read(references, site.url("good")))
        while len(time.slept) < 10:
            await asyncio.sleep(0)
        assert references.waiting == 1
        assert not reading.done()
        down = False
        assert await reading == DATA
        assert references.waiting == 0


async def test_patience_ends_and_the_host_is_left_alone_for_a_while(site: Site) -> None:
    lookups, time = 0, Time()

    async def lookup(host: str, port: int, family: int) -> list[tuple[int, str]]:
        nonlocal lookups
        lookups += 1
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    async with opened(site, lookup=lookup, time=time, patience_s=30) as references:
        error = await reference_refused(references, site.url("good"))
        assert (error.code, error.limit) == ("reference_unreachable", 30)
        assert time.now >= 30
        before = lookups
        assert (
            await reference_refused(references, site.url("other"))
        ).code == "reference_unreachable"
        assert lookups == before
        time.now += 61
        await reference_refused(references, site.url("good"))
        assert lookups > before
        assert references.waiting == 0


async def test_a_host_that_only_times_out_is_left_alone_for_a_while(site: Site) -> None:
    time = Time()
    async with opened(site, time=time, timeout_s=0.2, per_host_max=1) as references:
        # Those who wait at its door when it is given up do not ask it either.
        reading = (reference_refused(references, site.url("slow")) for _ in range(5))
        codes = {error.code for error in await asyncio.gather(*reading)}
        assert (codes, site.counts["slow"]) == ({"reference_unreachable"}, 3)
        assert (await reference_refused(references, site.url("good"))).limit == 60
        assert await read(references, site.url("good", "cdn.test")) == DATA
        time.now += 61
        assert await read(references, site.url("good")) == DATA
        assert (await reference_refused(references, site.url("slow"))).limit == 3
        assert (await reference_refused(references, site.url("good"))).limit == 60
    assert site.counts == {"slow": 6, "good": 2}


async def test_a_host_that_answers_others_is_not_given_up_for_one_that_is_slow(site: Site) -> None:
    time = Time()

    async def sleep(_: float) -> None:
        assert await read(references, site.url("good")) == DATA

    time.sleep = sleep  # type: ignore[method-assign]
    async with opened(site, time=time, timeout_s=0.2) as references:
        assert (await reference_refused(references, site.url("slow"))).limit == 3
        assert await read(references, site.url("good")) == DATA


async def test_requests_beside_each_other_time_out_as_one(site: Site) -> None:
    time, paused, go = Time(), 0, asyncio.Event()

    async def sleep(_: float) -> None:
        nonlocal paused
        paused += 1
        await go.wait()

    time.sleep = sleep  # type: ignore[method-assign]
    async with opened(site, time=time, timeout_s=0.2, per_host_max=4) as references:
        slow = [asyncio.create_task(read(references, site.url("slow"))) for _ in range(4)]
        while paused < 4:
            await asyncio.sleep(0.01)
        assert await read(references, site.url("good")) == DATA
        site.go.set()
        go.set()
        assert await asyncio.gather(*slow) == [DATA] * 4


async def test_a_redirect_that_takes_the_time_is_no_fault_of_where_it_leads(site: Site) -> None:
    slow = site.url("to?" + urlencode({"after_s": 0.4, "url": site.url("slow", "cdn.test")}))
    async with opened(site, timeout_s=0.6) as references:
        assert (await reference_refused(references, slow)).limit == 3
        assert await read(references, site.url("good", "cdn.test")) == DATA
    assert site.counts["slow"] > 0


async def test_when_another_is_read_meanwhile_it_is_the_host() -> None:
    retrying = patient(attempts_max=3)
    tried = 0

    async def bad() -> bytes:
        nonlocal tried
        tried += 1
        if tried == 7:
            await retrying.read_with_retries(good)
        raise AttemptFailed("host", "no route", away=True)

    with pytest.raises(RejectedRecord) as caught:
        await retrying.read_with_retries(bad)
    assert (caught.value.code, caught.value.limit) == ("reference_unreachable", 3)
    # The seventh began before the other came through, so it does not count.
    assert tried == 10
    assert retrying.waiting == 0


async def test_what_was_under_way_when_the_network_came_back_is_no_fault_of_its_host() -> None:
    retrying = patient(attempts_max=1)
    tried = 0

    async def late() -> bytes:
        nonlocal tried
        tried += 1
        if tried == 3:
            await retrying.read_with_retries(good)
        if tried <= 3:
            raise AttemptFailed("host", "no resolver", away=True)
        return DATA

    assert await retrying.read_with_retries(late) == DATA
    retrying.require_not_given_up("host")


async def test_only_the_log_tells_the_address_of_a_name(site: Site) -> None:
    """The refusal is in a dead letter and a tombstone, of which `wait_for` answers."""

    async def inside(host: str, port: int, family: int) -> list[tuple[int, str]]:
        return [(socket.AF_INET, "93.184.216.34"), (socket.AF_INET, "10.1.2.3")]

    async with opened(site, lookup=inside, hosts_allowed=frozenset()) as references:
        with capture_logs() as logs:
            error = await reference_refused(references, site.url("good"))
        written = await reference_refused(references, site.url("good", "10.1.2.3"))
    assert error.code == "reference_forbidden"
    assert error.value == HOST and "10.1.2.3" not in str(error.members())
    assert [(line["host"], line["address"]) for line in logs] == [(HOST, "10.1.2.3")]
    # Who wrote an address knows it.
    assert "10.1.2.3 is a private address" in written.message


async def test_files_and_what_is_off(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(DATA)
    ref = (tmp_path / "a.png").as_uri()
    async with opened(site, schemes=frozenset({"file"}), allow_roots=(tmp_path,)) as references:
        assert await read(references, ref, hashlib.sha256(DATA).hexdigest()) == DATA
        assert (
            await reference_refused(references, "file:///etc/passwd")
        ).code == "reference_forbidden"
        (tmp_path / "link.png").symlink_to("/etc/passwd")
        for outside in ("file:///etc/passwd", (tmp_path / "link.png").as_uri()):
            with pytest.raises(RejectedRecord, match="TIDELENS_ALLOW_ROOTS"):
                await references.require_allowed(outside)
        await references.require_allowed(ref)
        await references.require_allowed((tmp_path / "gone.png").as_uri())
        error = await reference_refused(references, site.url("good"))
        assert (error.code, error.limit, error.value) == ("not_enabled", ["file"], "http")


@pytest.mark.parametrize(
    ("ref", "code"),
    [
        ("s3://other/key", "reference_forbidden"),
        ("s3://bucket", "reference_invalid"),
        ("s3://bucket/", "reference_invalid"),
        ("s3:bucket/key", "reference_invalid"),
        ("s3://bucket/../other/key", "reference_invalid"),
    ],
)
async def test_buckets_are_named_by_the_operator(site: Site, ref: str, code: str) -> None:
    async with opened(site, schemes=frozenset({"s3"})) as references:
        error = await reference_refused(references, ref)
        with pytest.raises(RejectedRecord) as known:
            await references.require_allowed(ref)
    assert known.value.members() == error.members()
    assert error.code == code
    assert code != "reference_forbidden" or "TIDELENS_REFERENCE_BUCKETS" in error.message
