"""A role that waits for a Kafka which lets it in and never answers ends as soon as it is asked."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.kits.roles import free_port, role

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
def silent_kafka() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("name", ["encode", "index", "up"])
async def test_it_ends_with_0_and_writes_json_alone(
    name: str, silent_kafka: socket.socket, tmp_path: Path
) -> None:
    silent_kafka.setblocking(False)
    brokers = f"127.0.0.1:{silent_kafka.getsockname()[1]}"
    port = free_port()
    options = [] if name == "encode" else ["--port", str(port)]
    async with role(tmp_path, name, "--brokers", brokers, *options) as process:
        client, _ = await asyncio.get_running_loop().sock_accept(silent_kafka)
        with client, contextlib.ExitStack() as early:
            if options:
                # It listens already, and accepts nobody yet.
                waiting = early.enter_context(socket.create_connection(("127.0.0.1", port)))
                waiting.sendall(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            process.signal(signal.SIGTERM)
            # It took up to five seconds, and ended with 2 and advice about the broker.
            assert await process.ended() == 0
            if options:
                answer = await asyncio.to_thread(waiting.recv, 65536)
                assert answer.startswith(b"HTTP/1.1 503") and b'"stopping"' in answer
        lines = [orjson.loads(line) for line in process.log.read_text().splitlines()]
        assert [line["level"] for line in lines] == ["info"] * len(lines)
        assert "stopped" in lines[-1]["event"]
