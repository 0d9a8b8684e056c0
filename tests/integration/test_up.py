"""`tidelens up` as a person runs it: start, stop, kill, again, and what it says if it cannot."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.embedding import encode_value
from contracts.memory import HashEncoder
from contracts.records import OutRecord, Source
from contracts.space import Space
from tests.kit import collection
from tests.roles import Role, answering, free_port, of, role, said
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(400)]

TEXTS = ["a black cat", "a white dog", "a red bicycle"]


def family(process: Role) -> list[psutil.Process]:
    parent = psutil.Process(process.process.pid)
    return [parent, *parent.children(recursive=True)]


async def gone(processes: list[psutil.Process]) -> None:
    async with asyncio.timeout(25):
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            await asyncio.sleep(0.1)


async def publish_and_search(client: Client) -> None:
    items = [{"target": "captions", "id": str(n), "text": text} for n, text in enumerate(TEXTS)]
    tokens = await client.publish(items)
    for token in tokens:
        await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})
    await assert_found(client)


async def assert_found(client: Client) -> None:
    for n, text in enumerate(TEXTS):
        answer = await client.search({"text": text, "target": "captions", "k": 1})
        assert answer["hits"][0]["id"] == str(n)
        assert answer["hits"][0]["score"] == pytest.approx(1, abs=2e-3)


async def found(client: Client, query: dict[str, Any]) -> Any:
    """The first hit, once there is one."""
    async with asyncio.timeout(40):
        while not (hits := (await client.search(query))["hits"]):
            await asyncio.sleep(0.1)
    return hits[0]


async def test_everything_comes_back_after_a_stop_and_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--port", str(port), "--data", str(tmp_path / "data")]
    async with Client(f"http://127.0.0.1:{port}") as client:
        async with role(tmp_path, "up", *arguments) as first:
            await answering(client, first)
            await publish_and_search(client)
            before = (await client.get("/v1/status"))["digests"]
            processes = family(first)
            first.process.send_signal(signal.SIGINT)
            assert await first.ended() == 0
            await gone(processes)
        async with role(tmp_path, "up", *arguments) as second:
            await answering(client, second)
            await assert_found(client)
            # Nothing was encoded again: the digest covers source and vector of every item.
            after = (await client.get("/v1/status"))["digests"]
            assert [d["digest"] for d in after] == [d["digest"] for d in before]
            processes = family(second)
            await second.kill()
            await gone(processes)
        async with role(tmp_path, "up", *arguments) as third:
            await answering(client, third)
            await assert_found(client)
            assert await third.stop() == 0


async def test_samples_and_a_folder_and_a_second_up_on_the_same_data(kafka, tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "folder"
    folder.mkdir()
    async with collection(kafka.bootstrap, space="hash-v1", partitions=4) as kit:
        data = ["--data", str(tmp_path / "data")]
        feeds = ["--sample", "--watch", str(folder)]
        async with (
            role(tmp_path, "up", *of(kit), "--port", str(port), *data, *feeds) as first,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, first)
            (folder / "note.txt").write_text("a purple umbrella")
            query = {"text": "a purple umbrella", "target": "captions", "k": 1}
            note = await found(client, {**query, "min_score": 0.99})
            assert (note["id"], note["item"]) == ("note.txt", "note")
            sample = await found(client, {"text": "x", "k": 1})
            assert sample["id"].startswith("openmoji/")
            assert "OpenMoji" in sample["metadata"]["attribution"]
            code, _, err = await said("up", *of(kit), "--port", str(free_port()), *data)
            assert (code, err.count("\n")) == (2, 1)
            assert "another tidelens runs" in err
            assert await first.stop() == 0


async def test_what_cannot_work_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        data = ["--data", str(tmp_path / "data")]
        nowhere = ["--brokers", "127.0.0.1:1"]
        free = ["--port", str(free_port())]
        for arguments, words in [
            (["up", *nowhere, *free, *data], "no Kafka broker at 127.0.0.1:1"),
            (["encode", *nowhere], "no Kafka broker at 127.0.0.1:1"),
            (["up", *nowhere, "--port", port, *data], f"127.0.0.1:{port}"),
            (["up", *nowhere, *free, "--data", str(blocked / "x")], "data directory"),
            (["up", *nowhere, *free, *data, "--model", str(tmp_path / "none")], "model"),
            (["up", *nowhere, *free, *data, "--topic-prefix", "no dot"], "TOPIC_PREFIX"),
            (["search", "x", "--url", "http://127.0.0.1:1"], "no Tidelens server"),
        ]:
            code, out, err = await said(*arguments)
            assert code == 2, (arguments, err)
            assert words in err, (arguments, err)
            assert "Traceback" not in err
            assert len([line for line in err.splitlines() if line.startswith("tidelens: ")]) == 1
            assert out == ""


async def test_a_vector_of_another_space_is_lettered_and_the_next_is_served(
    kafka, tmp_path: Path
) -> None:
    port = free_port()
    encoder = HashEncoder()
    other = Space("hash-v1", "hash", "2", "words", encoder.space.dim)
    async with collection(kafka.bootstrap, space="hash-v1", partitions=1) as kit:
        vector = encoder.encode_texts(["a cat"])[0]
        headers = [("source", Source("x", 0, 0).encode()), ("appended", b"0")]
        topic = kit.names.embeddings("captions")
        await kit.log.publish(
            [
                OutRecord(topic, b"bad", encode_value(other, vector), headers, partition=0),
                OutRecord(topic, b"torn", b"TLE", headers, partition=0),
                OutRecord(topic, b"good", encode_value(encoder.space, vector), headers, 0),
            ]
        )
        async with (
            role(tmp_path, "index", *of(kit), "--port", str(port)) as node,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, node)
            answer = await client.search({"text": "a cat", "target": "captions"})
            assert [hit["id"] for hit in answer["hits"]] == ["good"]
            letters = await kit.read_all(kit.names.dead_letters)
            reasons = [record.header("dead_letter_reason") for record in letters[0]]
            assert reasons == [b"wrong_space", b"invalid_embedding"]
            assert await node.stop() == 0
