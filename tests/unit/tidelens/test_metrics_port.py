"""An encoder's metrics port: where it is, and what it says of the encoder's health to whom."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from time import sleep
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from contracts.errors import PortInUse
from contracts.events.record import TopicPartition
from contracts.metrics import Metrics
from contracts.settings import Settings
from contracts.testing.clock import ManualClock
from tests.kits.roles import free_port
from tidelens.runtime.encoder_health import STALLED_S, EncoderHealth
from tidelens.runtime.up import metrics_listener
from tidelens.server.metrics_port import metrics_server
from tidelens.server.server import Server, listen

HEALTHY = EncoderHealth()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def by_default(**values: Any) -> Settings:
    """Make settings that look like defaults: nobody set them."""
    return Settings.model_construct(_fields_set=set(), **values)


def held(settings: Settings, port: int) -> int:
    """Return the port that `up` reserves for its encoders beside an API on `port`."""
    listener = metrics_listener(settings, port)
    assert listener is not None
    with listener:
        chosen: int = listener.getsockname()[1]
        with pytest.raises(PortInUse):
            listen("127.0.0.1", chosen)
    return chosen


def test_one_encoder_after_another_serves_on_the_listener_of_up() -> None:
    settings = by_default()
    listener = metrics_listener(settings, free_port() - 1)
    assert listener is not None
    with listener:
        chosen = listener.getsockname()[1]
        given = Settings(encode_metrics_port=chosen)
        for _ in range(2):
            with metrics_server(given, Metrics(), HEALTHY, os.dup(listener.fileno())) as port:
                assert port == chosen
                answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
                assert "tidelens_" in answer.text
            with pytest.raises(PortInUse):
                listen("127.0.0.1", chosen)


def test_a_second_encoder_takes_another_port(taken: int) -> None:
    with metrics_server(by_default(encode_metrics_port=taken), Metrics(), HEALTHY) as port:
        assert port not in (0, taken)
        assert "tidelens_" in httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def test_a_port_that_was_given_is_kept_to(taken: int) -> None:
    given, told = Settings(encode_metrics_port=taken), f"127.0.0.1:{taken}.*TIDELENS_ENCODE_METRICS"
    with pytest.raises(PortInUse, match=told), metrics_server(given, Metrics(), HEALTHY):
        pass
    with pytest.raises(PortInUse, match=told):
        metrics_listener(given, 8080)
    free = free_port()
    with metrics_server(Settings(encode_metrics_port=free), Metrics(), HEALTHY) as port:
        assert port == free
    assert held(Settings(encode_metrics_port=free), 8080) == free
    with metrics_server(Settings(encode_metrics_port=0), Metrics(), HEALTHY) as port:
        assert port == 0
    assert metrics_listener(Settings(encode_metrics_port=0), 8080) is None


def test_metrics_are_served_on_the_host_that_was_set() -> None:
    with metrics_server(
        Settings(host="127.0.0.2", encode_metrics_port=free_port()), Metrics(), HEALTHY
    ) as port:
        assert httpx.get(f"http://127.0.0.2:{port}/metrics", trust_env=False).is_success
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)


def test_up_takes_the_next_port_or_a_free_one(taken: int) -> None:
    free = free_port()
    assert held(by_default(), free - 1) == free
    assert held(by_default(), taken - 1) not in (0, taken)
    assert held(by_default(), 65535) != 0


def test_a_server_that_fails_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(server: Server, sockets: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Server, "serve", serve)
    with (
        capture_logs() as logs,
        metrics_server(Settings(encode_metrics_port=free_port()), Metrics(), HEALTHY),
    ):
        while not (told := [line for line in logs if "/metrics" in line["event"]]):
            sleep(0.01)
    assert [(line["event"], line["error"]) for line in told] == [
        ("/metrics is no longer served", "RuntimeError('broken')")
    ]


def test_strangers_with_half_a_request_do_not_keep_a_scraper_out() -> None:
    threads = threading.active_count()
    with contextlib.ExitStack() as stack:
        given = Settings(encode_metrics_port=free_port(), header_timeout_s=0.2)
        port = stack.enter_context(metrics_server(given, Metrics(), HEALTHY))
        strangers = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{n}", 0))
            )
            for n in (2, 3, 4)
            for _ in range(40)
        ]
        for stranger in strangers:
            with contextlib.suppress(ConnectionError):
                stranger.sendall(b"GET /metrics HTTP/1.1\r\n")
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
        assert "tidelens_" in answer.text
        assert threading.active_count() == threads + 1
        for stranger in strangers:
            stranger.settimeout(30)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(4096):
                    pass


class Group:
    """An ownership as an encoder's health looks at it."""

    def __init__(self) -> None:
        self.is_member = False
        self.owned_partitions: frozenset[TopicPartition] = frozenset()


class Probed:
    """An encoder's port on every address of this machine, asked under any Host."""

    def __init__(
        self, client: httpx.Client, health: EncoderHealth, clock: ManualClock, group: Group
    ) -> None:
        self.health, self.clock, self.group = health, clock, group
        self._client = client

    def ask(
        self, path: str, host: str = "localhost", method: str = "GET", **headers: str
    ) -> httpx.Response:
        return self._client.request(method, path, headers={"host": host, **headers})

    def ready(self) -> tuple[int, Any]:
        self.health.update()
        answer = self.ask("/readyz")
        return answer.status_code, answer.json()["reason"]


@pytest.fixture
def probed() -> Iterator[Probed]:
    clock, group = ManualClock(), Group()
    health = EncoderHealth(has_broker=False, now=clock.now)
    # Another address of this machine may have taken the port: then it is another one.
    given = by_default(host="0.0.0.0", encode_metrics_port=free_port())
    with (
        metrics_server(given, Metrics(), health) as port,
        httpx.Client(base_url=f"http://127.0.0.2:{port}", trust_env=False) as client,
    ):
        yield Probed(client, health, clock, group)


def test_an_encoder_is_ready_once_it_is_a_member_of_its_group(probed: Probed) -> None:
    health, group = probed.health, probed.group
    assert probed.ready() == (503, "the address of the broker is not known yet")
    health.has_broker = True
    assert probed.ready() == (503, "the model is not loaded yet")
    health.space = "hash-v1"
    assert probed.ready() == (503, "the broker has not answered yet")
    health.broker = "reachable"
    assert probed.ready() == (503, "the group of encoders has not been joined yet")
    health.watch(group)  # type: ignore[arg-type]
    assert probed.ready() == (503, "the group of encoders has not been joined yet")
    # More encoders than partitions: it waits for one to leave.
    group.is_member = True
    assert probed.ready() == (200, None)
    group.owned_partitions = frozenset({TopicPartition("tidelens.images", 0)})
    assert probed.ready() == (200, None)
    assert probed.ask("/readyz").json() == {
        "ready": True,
        "reason": None,
        "space": "hash-v1",
        "broker": "reachable",
        "group_member": True,
        "partitions_owned": 1,
    }
    health.broker = "unreachable"
    assert probed.ready() == (503, "the broker does not answer")
    health.broker = "reachable"
    assert probed.ready() == (200, None)
    group.is_member, group.owned_partitions = False, frozenset()
    assert probed.ready() == (503, "the group of encoders has not been joined yet")


def test_an_encoder_whose_loop_stands_still_is_not_alive(probed: Probed) -> None:
    probed.health.update()
    probed.clock.advance(STALLED_S - 1)
    assert (probed.ask("/healthz").status_code, probed.ask("/healthz").json()) == (
        200,
        {"alive": True},
    )
    probed.clock.advance(1)
    answer = probed.ask("/healthz")
    reason = "the event loop has stood still for 60 s"
    assert (answer.status_code, answer.json()) == (503, {"alive": False, "reason": reason})
    assert probed.ask("/readyz").json()["reason"] == reason
    probed.health.update()
    assert probed.ask("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["10.244.1.7:8081", "encode.search.svc:8081", "evil.example"])
def test_a_probe_under_an_unknown_host_learns_a_state(probed: Probed, host: str) -> None:
    health = probed.health
    assert (probed.ask("/readyz", host).status_code, probed.ask("/readyz", host).json()) == (
        503,
        {"ready": False},
    )
    health.has_broker, health.space, health.broker = True, "hash-v1", "reachable"
    probed.group.is_member = True
    health.watch(probed.group)  # type: ignore[arg-type]
    health.update()
    assert (probed.ask("/readyz", host).status_code, probed.ask("/readyz", host).json()) == (
        200,
        {"ready": True},
    )
    assert probed.ask("/healthz", host).json() == {"alive": True}
    assert "tidelens_" in probed.ask("/metrics", host).text
    probed.clock.advance(STALLED_S)
    answer = probed.ask("/healthz", host)
    assert (answer.status_code, answer.json()) == (503, {"alive": False})
    # A page that was rebound to us asks with an Origin or a Sec-Fetch-Site where it can.
    for headers in ({"origin": f"http://{host}"}, {"sec-fetch-site": "same-origin"}):
        for path in ("/metrics", "/healthz", "/readyz"):
            assert probed.ask(path, host, **headers).status_code == 403


def test_other_paths_and_methods_have_none(probed: Probed) -> None:
    for path in ("/", "/foo", "/metrics/", "/healthz/x", "/readyzz", "/v1/search"):
        answer = probed.ask(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        assert probed.ask(path, "10.244.1.7").status_code == 403, path
    for path in ("/metrics", "/healthz", "/readyz"):
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = probed.ask(path, method=method)
            assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
            assert answer.headers["allow"] in ("GET, HEAD", "HEAD, GET")
            assert probed.ask(path, "10.244.1.7", method).status_code == 403
        assert probed.ask(path, method="HEAD").text == ""
