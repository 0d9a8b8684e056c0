"""The query encoder's process: queries learn why it cannot answer, and its vectors are cached."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from blockbuster import BlockBuster

from consumers.images.decoder_process import DecodeLimits
from consumers.queries import encoder_process
from consumers.queries.encoder import PictureLimits, ProcessQueryEncoder, QueryModel, _key
from contracts.errors import ConfigurationError, ModelMissing, NotReady
from contracts.metrics import Metrics
from contracts.score import Vectors, unit
from contracts.settings import Settings, load
from contracts.supervision.processes import Part
from contracts.testing.encoder import HashEncoder
from tests.kits.api_kit import Kit
from tests.kits.waiting import until
from tidelens.runtime.query_encoder import make_queries

pytestmark = pytest.mark.anyio

MODEL = QueryModel("hash", 1, None, False)
PICTURES = PictureLimits(DecodeLimits(1_000_000, 1_000_000, 10.0, 2**31), 1, 8, 8_000_000, nice=0)


@pytest.fixture(autouse=True)
def starting_processes(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # starting a process is a blocking call


@asynccontextmanager
async def running(metrics: Metrics | None = None, **options: Any) -> AsyncIterator[Any]:
    limits = {"batch_max": 8, "queue_max": 8, "cache_max": 8}
    encoder = ProcessQueryEncoder(MODEL, metrics or Metrics(), PICTURES, **(limits | options))
    task = asyncio.create_task(encoder.run())
    try:
        async with asyncio.timeout(60):
            yield encoder
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_queue_is_as_deep_as_it_says() -> None:
    metrics = Metrics()

    def depth() -> float | None:
        return metrics.registry.get_sample_value("tidelens_queue_depth", {"queue": "query"})

    async with running(metrics) as encoder:
        assert depth() == 0
        asking = [asyncio.create_task(encoder.text(text)) for text in ("one", "two")]
        await asyncio.sleep(0)
        assert depth() == 2
        found = await asyncio.gather(*asking)
        assert depth() == 0
    expected = HashEncoder().encode_texts(["one", "two"])
    assert [vector.tobytes() for vector in found] == [row.tobytes() for row in expected]


def hits(metrics: Metrics) -> float | None:
    name, labels = "tidelens_query_encode_seconds_count", {"kind": "text", "cache": "hit"}
    return metrics.registry.get_sample_value(name, labels)


async def test_without_a_template_a_query_is_the_text_to_the_bit() -> None:
    metrics = Metrics()
    async with running(metrics) as encoder:
        found = await encoder.query(" red\n cat ")
        assert found.tobytes() == HashEncoder().encode_texts(["red cat"])[0].tobytes()
        assert hits(metrics) is None
        assert (await encoder.text("red  cat")) is found
        assert hits(metrics) == 1
        assert encoder.recent() == ["red cat"]


async def test_a_query_is_the_mean_of_its_templates_and_a_label_is_not() -> None:
    templates = ["a photo of {}", "{} in {}"]
    metrics = Metrics()
    async with running(metrics, templates=templates, batch_max=3) as encoder:
        found, label, other = await asyncio.gather(
            encoder.query(" red  cat"), encoder.text("red cat"), encoder.query("a {}")
        )
        assert (await encoder.query("red cat")) is found
        assert hits(metrics) == 1
    hashes = HashEncoder()
    rows = hashes.encode_texts(["a photo of red cat", "red cat in red cat"]).astype(np.float64)
    assert found.tobytes() == unit(rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))).tobytes()
    assert label.tobytes() == hashes.encode_texts(["red cat"])[0].tobytes()
    rows = hashes.encode_texts(["a photo of a {}", "a {} in a {}"]).astype(np.float64)
    assert np.allclose(other, unit(rows.mean(axis=0)), atol=1e-3)


def test_a_query_that_the_model_cannot_take_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Overflowing(HashEncoder):
        def encode_texts(self, texts: Sequence[str]) -> Vectors:
            if any("huge" in text for text in texts):
                raise ValueError("not finite")
            return super().encode_texts(texts)

    monkeypatch.setattr(encoder_process, "_encoder", Overflowing())
    good, bad, other = encoder_process.encode_all([["one"], ["a huge one"], ["two"]])
    rows = HashEncoder().encode_texts(["one", "two"])
    assert [good.tobytes(), other.tobytes()] == [row.tobytes() for row in rows]
    assert bad["code"] == "encode_failed"
    assert "not finite" in bad["message"]


async def test_the_most_that_is_encoded_together_counts_templates() -> None:
    encoder = ProcessQueryEncoder(
        MODEL,
        Metrics(),
        PICTURES,
        batch_max=4,
        queue_max=8,
        cache_max=8,
        templates=["{}", "a {}", "the {}"],
    )
    asking = [asyncio.create_task(encoder.query(text)) for text in ("one", "two", "three")]
    asking.append(asyncio.create_task(encoder.text("four")))
    await asyncio.sleep(0)
    asking[1].cancel()  # nobody awaits it any more
    await asyncio.sleep(0)
    assert [w.asked for w in encoder._turns.take_batch()] == [["one", "a one", "the one"]]
    assert [w.asked[0] for w in encoder._turns.take_batch()] == ["three", "four"]
    assert encoder._turns.take_batch() == []
    for task in asking:
        task.cancel()


async def test_what_comes_after_the_end_does_not_wait_for_ever() -> None:
    async with running() as encoder:
        await encoder.text("one")
    for asked in (["two"], np.zeros((224, 224, 3), np.uint8)):
        with pytest.raises(NotReady, match="shutting down"):
            async with asyncio.timeout(10):
                await encoder._encode(b"key", asked)
    with pytest.raises(NotReady):
        async with asyncio.timeout(10):
            await encoder.query("two")


async def test_what_is_kept_is_of_one_space() -> None:
    asked: list[list[str] | bytes] = [["a", "b"], ["ab"], ["b", "a"], ["a"], b"a", b"ab"]
    keys = {_key(space, one) for space in ("hash-v1", "hash-v2") for one in asked}
    assert len(keys) == 2 * len(asked)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("QUERY_TEMPLATES", '["{}", "a photo"]', "want {} in the template, got 'a photo'"),
        ("QUERY_TEMPLATES", "[]", ".*at least 1 item.*"),
        (
            "QUERY_TEMPLATES",
            "a photo of {}",
            r"""want JSON such as '\["a", "b"\]', got 'a photo of {}'""",
        ),
        ("LABEL_TEMPLATES", '["a photo"]', "want {} in the template, got 'a photo'"),
        ("LABELS", '["a", "b", "a"]', "'a' is given twice"),
    ],
)
async def test_templates_and_labels_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"TIDELENS_{name}", value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert re.fullmatch(f"TIDELENS_{name}: {says}", str(raised.value))


async def test_the_setting_comes_to_the_encoder() -> None:
    assert make_queries(Settings(model="hash")).encoder._templates == ["{}"]
    queries = make_queries(Settings(model="hash:48", query_templates=["a {}"]))
    assert (queries.encoder._templates, queries.encoder._space) == (["a {}"], "hash-48")


async def test_searches_and_live_lists_are_queries_and_labels_are_not() -> None:
    kit, asked = Kit(), []

    async def query(text: str) -> Any:
        asked.append(text)
        return kit.text(f"a photo of {text}")

    kit.queries.query = query  # type: ignore[method-assign]
    kit.caption("a", "a photo of cat")
    answer = (await kit.http.post("/v1/search", json={"text": "cat", "target": "captions"})).json()
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
    fused = {"fuse": [{"text": "dog"}, {"text": "cow"}], "target": "captions"}
    await kit.http.post("/v1/search", json=fused)
    async with kit.live() as socket:
        await socket.accepted()
        socket.subscribe("s", text="cat", target="captions")
        assert (await socket.receive())["hits"][0]["score"] == answer["hits"][0]["score"]
    assert asked == ["cat", "dog", "cow", "cat"]
    response = await kit.http.post("/v1/classify", json={"text": "hen", "labels": ["cat", "dog"]})
    assert response.status_code == 200
    assert asked == ["cat", "dog", "cow", "cat"]
    assert kit.queries.texts == ["hen", "a photo of a cat.", "a photo of a dog."]


async def test_a_model_that_is_refused_ends_the_node_with_its_reason(tmp_path: Path) -> None:
    """Another process would be refused too, each with a stack trace, for ever."""
    (tmp_path / "config.json").write_text("{")
    model = replace(MODEL, model=str(tmp_path))
    encoder = ProcessQueryEncoder(model, Metrics(), PICTURES, batch_max=8, queue_max=8, cache_max=8)
    async with asyncio.timeout(60):
        with pytest.raises(ModelMissing, match=r"config\.json is not JSON"):
            await encoder.run()


def child_of(encoder: ProcessQueryEncoder) -> psutil.Process:
    assert encoder._process is not None and encoder._process.pid is not None
    return psutil.Process(encoder._process.pid)


async def test_a_child_that_was_killed_is_replaced_and_its_end_is_named() -> None:
    async with running(part=Part("query", "hash", pause_max_s=0.05)) as encoder:
        await encoder.text("one")
        assert (encoder.part.running, encoder.part.restarts) == (True, 0)
        child_of(encoder).kill()
        assert (await encoder.text("one")).shape  # it is remembered
        await until(lambda: encoder.part.restarts == 1)
        assert encoder.part.reason == "it was killed by SIGKILL"
        # A single restart is waited for.
        assert (await encoder.text("two")).shape
        assert encoder.part.running


async def test_a_model_that_cannot_be_loaded_again_is_named_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    async with running(part=Part("query", "hash", pause_max_s=0.05)) as encoder:
        await encoder.text("one")
        encoder._model = replace(MODEL, model=str(tmp_path))
        child_of(encoder).kill()
        await until(lambda: encoder.part.failures > 1)
        assert (await encoder.text("one")).shape
        with pytest.raises(NotReady, match=r"is down: .*config\.json is not JSON"):
            await encoder.text("two")
        encoder._model = MODEL
        await until(lambda: encoder.part.running)
        assert (await encoder.text("two")).shape


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_of_the_whole_service_is_for_the_parent(number: signal.Signals) -> None:
    async with running() as encoder:
        await encoder.text("one")
        child = child_of(encoder)
        child.send_signal(number)
        await encoder.text("two")
        assert encoder.part.restarts == 0
        assert child_of(encoder) == child
    assert not child.is_running()


async def test_a_child_that_was_stopped_does_not_hold_up_the_end() -> None:
    async with running() as encoder:
        await encoder.text("one")
        child = child_of(encoder)
        child.suspend()
    assert not child.is_running()


async def test_a_child_that_hangs_is_replaced_and_who_waits_is_told() -> None:
    part = Part("query", "hash", pause_max_s=0.05)
    async with running(part=part) as encoder:
        await encoder.text("one")
        child = child_of(encoder)
        child.suspend()
        encoder._encode_timeout_s = 0.5
        asking = [asyncio.create_task(encoder.text(text)) for text in ("two", "three")]
        for told in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(told, NotReady)
            assert str(told).endswith("restarts: it did not answer for query_encode_timeout_s=0.5")
        encoder._encode_timeout_s = 60.0
        assert (await encoder.text("four")).shape
        assert not child.is_running()
        assert (part.running, part.restarts, part.failures) == (True, 1, 1)
