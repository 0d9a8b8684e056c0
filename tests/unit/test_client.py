"""What the client says of an address where no Tidelens server is."""

import pytest
from prometheus_client import start_http_server

from contracts.errors import ConfigurationError
from contracts.metrics import Metrics
from tidelens.client import Client, ServerUnavailable

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "url",
    ["foo", "", "http://", "http://[", "http://h:99999", "http://h:0", "ftp://h", "localhost:8080"],
)
async def test_what_is_no_url_of_a_server_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="want http://HOST:PORT, got"):
        Client(url)


async def test_another_server_is_told() -> None:
    server, thread = start_http_server(0, "127.0.0.1", registry=Metrics().registry)
    try:
        async with Client(f"http://127.0.0.1:{server.server_port}") as client:
            with pytest.raises(ServerUnavailable, match="is no Tidelens server"):
                await client.get("/v1/status")
            with pytest.raises(ServerUnavailable, match="no live socket"):
                await anext(client.watch({"text": "a cat"}))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
