"""The metrics of a node: those of every space that it keeps, and its children's memory."""

import subprocess
import sys

import psutil
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from contracts.metrics import Metrics
from tidelens.runtime.metrics_exposition import Exposition


def samples(exposition: Exposition, name: str) -> dict[str, float]:
    """Return the values by their space; the parser refuses a metric that stands there twice."""
    text = generate_latest(exposition.registry).decode()
    assert len([line for line in text.splitlines() if line.startswith(f"# TYPE {name} ")]) <= 1
    return {
        sample.labels["space"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_counters_of_a_space_last_for_as_long_as_it_is_kept() -> None:
    exposition, old, new = Exposition(), Metrics("old"), Metrics("new")
    with exposition.registered(new):
        with exposition.registered(old):
            old.published.inc(3)
            new.published.inc()
            assert samples(exposition, "tidelens_published_records_total") == {"old": 3, "new": 1}
            # Both at every scrape: collecting changes nothing.
            assert samples(exposition, "tidelens_published_records_total") == {"old": 3, "new": 1}
        assert samples(exposition, "tidelens_published_records_total") == {"new": 1}
    assert exposition.registry.get_sample_value("process_resident_memory_bytes")


@pytest.mark.parametrize(
    ("words", "role"),
    [
        (["tidelens", "encode", "--attached"], "encode"),
        (["--multiprocessing-fork"], "query"),
        (["something"], "other"),
    ],
)
def test_the_memory_of_children_by_role(words: list[str], role: str) -> None:
    code = "print('up', flush=True); input()"

    def sample() -> float | None:
        registry, name = Exposition().registry, "tidelens_child_memory_bytes"
        return registry.get_sample_value(name, {"role": role})

    # None, unless other tests' brokers are children of this process too.
    before = sample()
    command = [sys.executable, "-c", code, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None and child.stdout.readline()
        size = psutil.Process(child.pid).memory_info().rss
        used = sample()
        assert used is not None
        assert used - (before or 0) >= 0.9 * size
        child.communicate(b"\n")
    after = sample()
    assert after is None if before is None else after == pytest.approx(before, abs=0.2 * size)
