"""`tidelens up` as a person runs it: start, stop, kill, again, and what it says if it cannot."""

import asyncio
import signal
import socket
import time
from pathlib import Path
from typing import Any, Self

import httpx
import orjson
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.errors import RejectedRequest, TidelensError
from contracts.events.embedding_record import encode_embedding
from contracts.events.record import OutRecord, Source
from contracts.settings import Settings
from contracts.space import Space
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS, Names
from tests.kits.kafka import collection
from tests.kits.roles import Role, answering, free_port, of, role, said
from tidelens.client import Client
from tidelens.runtime.run_file import Runtime

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(400)]

TEXTS = ["a black cat", "a white dog", "a red bicycle"]
NAMES = Names("tidelens.", "hash-v1")
TOPICS = {f(target) for f in (NAMES.content, NAMES.embeddings) for target in TARGETS}


def family(process: Role) -> list[psutil.Process]:
    parent = psutil.Process(process.process.pid)
    return [parent, *parent.children(recursive=True)]


async def gone(processes: list[psutil.Process]) -> None:
    async with asyncio.timeout(90):
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


class Scraped:
    """One reading of a role's /metrics."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self._samples = [sample for family in families for sample in family.samples]

    @classmethod
    async def of(cls, port: int) -> Self:
        async with httpx.AsyncClient(trust_env=False) as http:
            return cls((await http.get(f"http://127.0.0.1:{port}/metrics")).text)

    def values(self, name: str, label: str = "space", **labels: str) -> dict[str, float]:
        """Return the samples by the values of one label; samples that share a value are summed."""
        found: dict[str, float] = {}
        for sample in self._samples:
            if sample.name == f"tidelens_{name}" and labels.items() <= sample.labels.items():
                value = sample.labels[label]
                found[value] = found.get(value, 0) + sample.value
        return found

    def process_memory(self) -> float:
        [found] = [s for s in self._samples if s.name == "process_resident_memory_bytes"]
        return float(found.value)


async def pushed(client: Client) -> None:
    """Publish a caption that an open subscription receives, and a picture that is broken."""
    updates = client.watch({"text": "a boat", "target": "captions", "k": 1})
    await anext(updates)
    await client.publish({"target": "captions", "id": "boat", "text": "a boat"})
    async with asyncio.timeout(90):
        while (await anext(updates)).hits[0]["id"] != "boat":
            pass
    await updates.aclose()
    [token] = await client.publish(
        {"target": "images", "id": "bad", "image": "bm90IGEgcGljdHVyZQ=="}
    )
    with pytest.raises(RejectedRequest, match="image_format"):
        await client.search({"text": "x", "wait_for": token, "timeout_s": 30})


async def assert_metrics(node_port: int, encoder_port: int) -> None:
    """Require lag, throughput, latency by stage, dead letters, queues and memory of both roles."""
    async with asyncio.timeout(90):
        # The lag is read on a timer: until it has seen what was published last.
        while True:
            node, encoder = await Scraped.of(node_port), await Scraped.of(encoder_port)
            lags = [shown.values("lag_records", "role") for shown in (node, encoder)]
            if lags == [{"encode": 0, "index": 0}] * 2:
                break
            await asyncio.sleep(0.2)
    groups = {"tidelens.encode.hash-v1", "tidelens.index.hash-v1.0.0"}
    for shown in (node, encoder):
        assert shown.values("lag_seconds", "group").keys() == groups
        assert shown.values("lag_seconds", "topic").keys() == TOPICS
        assert time.time() - shown.values("lag_read_timestamp_seconds")["hash-v1"] < 90
        assert 20e6 < shown.process_memory() < 4e9
    assert node.values("behind_seconds") == {"hash-v1": 0}
    assert node.values("ready") == {"hash-v1": 1}
    assert encoder.values("encoded_records_total", "outcome") == {"vector": 4, "tombstone": 1}
    assert node.values("applied_records_total", "target") == {"captions": 4, "images": 1}
    assert node.values("index_items", "target") == {"captions": 4, "images": 0}
    assert node.values("published_records_total") == {"hash-v1": 5}
    assert encoder.values("stage_seconds_count", "stage") == {"encoded": 5}
    assert node.values("stage_seconds_count", "stage") == {"searchable": 4, "pushed": 1}
    for shown in (node, encoder):
        assert all(0 < s < 300 for s in shown.values("stage_seconds_sum", "stage").values())
    assert node.values("part_running", "role") == {"broker": 1, "encode": 1, "query": 1}
    assert encoder.values("part_running", "role") == {"decode": 1}
    letters = encoder.values("dead_letters_total", "reason", stage="encode")
    assert letters == {"image_format": 1}
    assert encoder.values("queue_depth", "queue") == {"encode": 0, "references": 0}
    async with httpx.AsyncClient(trust_env=False) as http:
        ready = await http.get(f"http://127.0.0.1:{encoder_port}/readyz")
    assert (ready.status_code, ready.json()) == (
        200,
        {
            "ready": True,
            "reason": None,
            "space": "hash-v1",
            "broker": "reachable",
            "group_member": True,
            "partitions_owned": 2 * Settings().partitions,
        },
    )
    queues = ("query", "query_pictures", "search", "search_exact")
    assert node.values("queue_depth", "queue") == dict.fromkeys(queues, 0)
    children = node.values("child_memory_bytes", "role")
    assert {"broker", "encode", "query"} <= children.keys()
    assert all(20e6 < children[kind] < 4e9 for kind in ("broker", "encode", "query"))


async def found(client: Client, query: dict[str, Any]) -> Any:
    """Return the first hit, once there is one."""
    async with asyncio.timeout(90):
        while not (hits := (await client.search(query))["hits"]):
            await asyncio.sleep(0.1)
    return hits[0]


async def parts(client: Client) -> dict[str, dict[str, Any]]:
    """Return what /readyz says about each process that is started again."""
    ready = await client.get("/readyz")
    assert ready["ready"]
    return {part["role"]: part for part in ready["parts"]}


async def assert_parts_come_back(client: Client, data: Path, port: int) -> None:
    """Kill every process but `up` itself: searches go on, and nothing is lost."""
    began, before = await runtime_of(data), await parts(client)
    [query] = [
        child
        for child in psutil.Process(began.pid).children()
        if "--multiprocessing-fork" in child.cmdline()
    ]
    for process in (query, *map(psutil.Process, began.children.values())):
        process.kill()
    # Each text was asked before, so that its vector is remembered.
    await assert_found(client)
    async with asyncio.timeout(90):
        while not came_back(before, now := await parts(client)):
            await assert_found(client)
            await asyncio.sleep(0.05)
    assert {part["reason"] for part in now.values()} == {"it was killed by SIGKILL"}
    ended = await runtime_of(data)
    assert (ended.brokers, ended.pid) == (began.brokers, began.pid)
    assert not {*began.children.values()} & {*ended.children.values()}
    token = await published(client, {"target": "captions", "id": "late", "text": "a late one"})
    await client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 30})
    shown = await Scraped.of(port)
    assert shown.values("part_restarts_total", "role") == {"broker": 1, "encode": 1, "query": 1}
    assert shown.values("part_running", "role") == {"broker": 1, "encode": 1, "query": 1}


async def runtime_of(data: Path) -> Runtime:
    runtime = await asyncio.to_thread(Runtime.read, data)
    assert runtime is not None
    return runtime


def came_back(before: Any, now: Any) -> bool:
    return before.keys() == now.keys() == {"broker", "encode", "query"} and all(
        now[role]["running"] and now[role]["restarts"] > before[role]["restarts"] for role in now
    )


async def published(client: Client, item: dict[str, Any]) -> Any:
    """Publish until Kafka, which was away, accepts the item, and return the token."""
    async with asyncio.timeout(60):
        while True:
            try:
                [token] = await client.publish(item)
                return token
            except TidelensError:
                await asyncio.sleep(0.2)


async def test_everything_comes_back_after_a_stop_and_after_a_kill(tmp_path: Path) -> None:
    port, encoder_port = free_port(), free_port()
    arguments = ["--port", str(port), "--data", str(tmp_path / "data")]
    async with Client(f"http://127.0.0.1:{port}") as client:
        scraped = {"TIDELENS_ENCODE_METRICS_PORT": str(encoder_port)}
        async with role(tmp_path, "up", *arguments, **scraped) as first:
            await answering(client, first)
            await publish_and_search(client)
            await pushed(client)
            await assert_metrics(port, encoder_port)
            before = (await client.get("/v1/status"))["digests"]
            processes = family(first)
            first.signal(signal.SIGINT)
            assert await first.ended() == 0
            await gone(processes)
        async with role(tmp_path, "up", *arguments) as second:
            await answering(client, second)
            await assert_found(client)
            # Nothing was encoded again: the digest covers source and vector of every item.
            after = (await client.get("/v1/status"))["digests"]
            assert [d["digest"] for d in after] == [d["digest"] for d in before]
            await assert_parts_come_back(client, tmp_path / "data", port)
            processes = family(second)
            await second.kill()
            await gone(processes)
        async with role(tmp_path, "up", *arguments) as third:
            await answering(client, third)
            await assert_found(client)
            assert await third.stop() == 0


async def test_samples_and_a_folder_and_a_second_node_on_the_same_data(
    kafka, tmp_path: Path
) -> None:
    port, hour_ms = free_port(), 3_600_000
    folder = tmp_path / "folder"
    folder.mkdir()
    other_topics = {"space": "hash-v1", "partitions": 4, "retention_ms": hour_ms}
    async with collection(kafka.bootstrap, **other_topics) as kit:
        data = ["--data", str(tmp_path / "data")]
        feeds = ["--sample", "--watch", str(folder)]
        async with (
            role(tmp_path, "up", *of(kit), "--port", str(port), *data, *feeds) as first,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, first)
            for command in ("up", "index"):
                code, _, err = await said(command, *of(kit), "--port", str(free_port()), *data)
                assert (code, err.count("\n")) == (2, 1)
                assert f"another tidelens (pid {first.process.pid}) runs" in err
            runtime = await asyncio.to_thread(Runtime.read, tmp_path / "data")
            assert runtime is not None
            assert runtime.url == f"http://127.0.0.1:{port}"
            assert runtime.pid == first.process.pid
            # It has not started a Kafka, and the query encoder's process is not listed.
            encoder = runtime.children["encode hash"]
            assert "encode" in psutil.Process(encoder).cmdline()
            assert list(runtime.children) == ["encode hash"]
            differs = [line for line in first.log.read_text().splitlines() if "as wanted" in line]
            assert len(differs) == 4
            assert "delete.retention.ms" in differs[0] and str(hour_ms) in differs[0]
            (folder / "note.txt").write_text("a purple umbrella")
            query = {"text": "a purple umbrella", "target": "captions", "k": 1}
            note = await found(client, {**query, "min_score": 0.99})
            assert (note["id"], note["item"]) == ("note.txt", "note")
            sample = await found(client, {"text": "x", "k": 1})
            assert sample["id"].startswith("openmoji/")
            assert "OpenMoji" in sample["metadata"]["attribution"]
            assert await first.stop() == 0
            assert not (tmp_path / "data" / "run.json").exists()


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
        unwritable = ["--data", str(blocked / "x")]
        for arguments, words in [
            (["up", *nowhere, *free, *data], "no Kafka broker at 127.0.0.1:1"),
            (["encode", *nowhere], "no Kafka broker at 127.0.0.1:1"),
            (["up", *nowhere, "--port", port, *data], f"127.0.0.1:{port}"),
            (["up", *nowhere, *free, *unwritable], "data directory"),
            (["index", *nowhere, *free, *unwritable], "data directory"),
            (["up", *nowhere, *free, *data, "--model", str(tmp_path / "none")], "model"),
            (["up", *nowhere, *free, *data, "--topic-prefix", "no dot"], "TOPIC_PREFIX"),
            (["search", "x", "--url", "http://127.0.0.1:1"], "no Tidelens server"),
            (["watch", "x", "--url", "foo"], "want http://HOST:PORT, got 'foo'"),
        ]:
            code, out, err = await said(*arguments)
            assert code == 2, (arguments, err)
            assert words in err, (arguments, err)
            assert "Traceback" not in err
            *_, last = err.splitlines()
            if arguments[0] in ("up", "encode", "index"):
                # A role's last word is a line of its log, which is JSON where nobody looks on.
                assert words in orjson.loads(last)["event"]
            else:
                assert last.startswith("tidelens: ") and len(err.splitlines()) == 1
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
                OutRecord(topic, b"bad", encode_embedding(other, vector), headers, partition=0),
                OutRecord(topic, b"torn", b"TLE", headers, partition=0),
                OutRecord(topic, b"good", encode_embedding(encoder.space, vector), headers, 0),
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
