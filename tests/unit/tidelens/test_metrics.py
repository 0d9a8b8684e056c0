"""The metrics: their names as Prometheus asks, and the lag as it was read."""

import re
from math import isnan
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from contracts.errors import BrokerUnavailable, TopicAbsent
from contracts.metrics import Metrics, register_process_metrics
from contracts.ports.lag import Lag
from contracts.testing.clock import ManualClock
from tests.kits.api_kit import FixedLag
from tidelens.runtime import encode_role
from tidelens.runtime.encoder_health import EncoderHealth

UNITS = ("seconds", "bytes", "records")
# Plain numbers of what the name says, and one ratio.
WITHOUT_UNIT = (
    "tidelens_audited_recall",
    "tidelens_encode_partitions_owned",
    "tidelens_group_members",
    "tidelens_index_items",
    "tidelens_live_connections",
    "tidelens_live_subscriptions",
    "tidelens_partitions_added",
    "tidelens_queue_depth",
    "tidelens_ready",
    "tidelens_snapshot_blobs_lacking",
)


def test_names_follow_the_conventions() -> None:
    metrics = list(Metrics().registry.collect())
    assert len(metrics) > 20
    for metric in metrics:
        assert re.fullmatch("tidelens(_[a-z]+)+", metric.name)
        assert metric.documentation.endswith(".")
        kind = metric.type
        # The client cuts a counter's `_total` from its name and writes it again.
        names = {sample.name for sample in metric.samples} or {f"{metric.name}_total"}
        if kind == "counter":
            assert names <= {f"{metric.name}_total", f"{metric.name}_created"}
        elif metric.name not in WITHOUT_UNIT:
            assert metric.name.endswith(UNITS), metric.name


def test_every_metric_that_a_page_names_exists() -> None:
    root = Path(__file__).parents[3]
    sources = [root / "contracts/metrics.py", root / "contracts/supervision/side_tasks.py"]
    sources += (root / "tidelens").rglob("*.py")
    text = "".join(source.read_text() for source in sources)
    made = {name.removesuffix("_total") for name in re.findall(r'"(tidelens(?:_[a-z]+)+)"', text)}
    for page in (root / "README.md", *(root / "docs").rglob("*.md")):
        named = set(re.findall(r"\btidelens(?:_[a-z]+)+\b", page.read_text()))
        assert {name.removesuffix("_total") for name in named} <= made, page.name


def test_those_of_a_space_say_so_and_the_process_does_not() -> None:
    metrics = Metrics("hash-v1")
    register_process_metrics(metrics.registry)
    metrics.encoded.labels("images", "vector").inc()
    text = generate_latest(metrics.registry).decode()
    line = (
        r'^tidelens_encoded_records_total\{outcome="vector",space="hash-v1",target="images"\} 1.0$'
    )
    assert re.search(line, text, re.MULTILINE)
    assert re.search(r"^process_resident_memory_bytes \d", text, re.MULTILINE)


@pytest.mark.anyio
async def test_an_encoder_shows_the_lag_until_the_broker_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, metrics, clock = FixedLag(), Metrics(), ManualClock()
    source.lags = [Lag("encode", "g", "t", 0, 3, 5, 2, 4.0, "hash-v1")]
    labels = {"role": "encode", "group": "g", "topic": "t", "partition": "0"}

    def shown() -> float | None:
        return metrics.registry.get_sample_value("tidelens_lag_records", labels)

    turns = iter((BrokerUnavailable("no broker"), None, StopAsyncIteration("the end")))
    found = []

    async def next_turn(_: float) -> None:
        found.append(shown())
        error = next(turns)
        if isinstance(error, StopAsyncIteration):
            raise error
        source.error = error

    monkeypatch.setattr(encode_role.asyncio, "sleep", next_turn)
    with pytest.raises(StopAsyncIteration):
        await encode_role.update_lag_metrics(source, metrics, clock)
    assert found[0] == found[2] == 2
    assert isnan(found[1] or 0)


@pytest.mark.anyio
async def test_a_topic_that_is_absent_says_nothing_against_the_broker() -> None:
    """The answer of /readyz was that the broker does not answer, and nothing named the topic."""
    source, health = FixedLag(), EncoderHealth()
    source.error = TopicAbsent("topic t does not exist")
    with pytest.raises(TopicAbsent):
        await encode_role.update_lag_metrics(source, Metrics(), ManualClock(), health)
    assert health.broker == "reachable"
