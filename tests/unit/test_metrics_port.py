"""Where an encoder's /metrics is: the port that was given, or a free one near the usual."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from time import sleep
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from contracts.errors import PortInUse
from contracts.metrics import Metrics
from contracts.settings import Settings
from tests.roles import free_port
from tidelens.metrics_port import metrics_server
from tidelens.server import Server
from tidelens.up import choose_metrics_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def by_default(**values: Any) -> Settings:
    """Make settings that look like defaults: nobody set them."""
    return Settings.model_construct(_fields_set=set(), **values)


def test_a_second_encoder_takes_another_port(taken: int) -> None:
    with metrics_server(by_default(encode_metrics_port=taken), Metrics()) as port:
        assert port not in (0, taken)
        assert "tidelens_" in httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def test_a_port_that_was_given_is_kept_to(taken: int) -> None:
    given, told = Settings(encode_metrics_port=taken), f"127.0.0.1:{taken}.*TIDELENS_ENCODE_METRICS"
    with pytest.raises(PortInUse, match=told), metrics_server(given, Metrics()):
        pass
    with pytest.raises(PortInUse, match=told):
        choose_metrics_port(given, 8080)
    free = free_port()
    with metrics_server(Settings(encode_metrics_port=free), Metrics()) as port:
        assert port == free
    assert choose_metrics_port(Settings(encode_metrics_port=free), 8080) == free
    with metrics_server(Settings(encode_metrics_port=0), Metrics()) as port:
        assert port == 0
    assert choose_metrics_port(Settings(encode_metrics_port=0), 8080) == 0


def test_metrics_are_served_on_the_host_that_was_set() -> None:
    with metrics_server(
        Settings(host="127.0.0.2", encode_metrics_port=free_port()), Metrics()
    ) as port:
        assert httpx.get(f"http://127.0.0.2:{port}/", trust_env=False).is_success
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)


def test_up_takes_the_next_port_or_a_free_one(taken: int) -> None:
    free = free_port()
    assert choose_metrics_port(by_default(), free - 1) == free
    assert choose_metrics_port(by_default(), taken - 1) not in (0, taken)
    assert choose_metrics_port(by_default(), 65535) != 0


def test_a_server_that_fails_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(server: Server, sockets: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Server, "serve", serve)
    with (
        capture_logs() as logs,
        metrics_server(Settings(encode_metrics_port=free_port()), Metrics()),
    ):
        while not (told := [line for line in logs if "/metrics" in line["event"]]):
            sleep(0.01)
    assert [(line["event"], line["error"]) for line in told] == [
        ("/metrics is not served any more", "RuntimeError('broken')")
    ]


def test_strangers_with_half_a_request_do_not_keep_a_scraper_out() -> None:
    threads = threading.active_count()
    with contextlib.ExitStack() as stack:
        given = Settings(encode_metrics_port=free_port(), header_timeout_s=0.2)
        port = stack.enter_context(metrics_server(given, Metrics()))
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
