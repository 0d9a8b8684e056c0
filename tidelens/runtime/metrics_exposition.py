"""The metrics of a node: its own, and those of its child processes and its open spaces."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator

import psutil
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from contracts.metrics import Metrics, register_process_metrics
from contracts.supervision.processes import Part
from streams.registry.control_faults import IgnoredRecords
from tidelens.server.admission import ConnectionLimiter

# The role of a child process by a word of its command line. The process that guards Kafka repeats
# Kafka's command in its own. A process that multiprocessing starts encodes queries.
_ROLES = {
    "kafka.Kafka": "broker",
    "encode": "encode",
    "index_store.merge.build_process": "rebuild",
    "--multiprocessing-fork": "query",
}


class Exposition(Collector):
    """The metrics registry of a process; it shows a space's metrics while the space is open."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        register_process_metrics(self.registry)
        self.registry.register(ChildMemoryMetrics())
        self.registry.register(self)
        self._shown: list[Metrics] = []

    @contextlib.contextmanager
    def registered(self, metrics: Metrics) -> Iterator[None]:
        """Show the metrics of a space for the context."""
        self._shown.append(metrics)
        try:
            yield
        finally:
            self._shown.remove(metrics)

    def collect(self) -> Iterable[Metric]:
        """Return each metric once, with the samples of every space."""
        merged: dict[str, Metric] = {}
        for metrics in tuple(self._shown):
            for metric in metrics.registry.collect():
                if merged.setdefault(metric.name, metric) is not metric:
                    merged[metric.name].samples += metric.samples
        return merged.values()


class ChildMemoryMetrics(Collector):
    """The resident memory of child processes, summed by role and read at each scrape."""

    def collect(self) -> Iterable[Metric]:
        used: Counter[str] = Counter()
        for child in psutil.Process().children(recursive=True):
            # A child may end while it is read.
            with contextlib.suppress(psutil.Error):
                used[_role(child.cmdline())] += child.memory_info().rss
        family = GaugeMetricFamily(
            "tidelens_child_memory_bytes",
            "Resident memory of the child processes, by what they do.",
            labels=["role"],
        )
        for role, size in sorted(used.items()):
            family.add_metric([role], size)
        yield family


class PartMetrics(Collector):
    """The state of the processes of `up` or a role: which run, and how often each restarted."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        labels = ["role", "model"]
        running = GaugeMetricFamily(
            "tidelens_part_running",
            "1 while this process does its work, 0 while it is down or starts.",
            labels=labels,
        )
        restarts = CounterMetricFamily(
            "tidelens_part_restarts", "Times this process was started again.", labels=labels
        )
        for part in self._parts:
            running.add_metric([part.role, part.model], part.running)
            restarts.add_metric([part.role, part.model], part.restarts)
        yield running
        yield restarts


class ConnectionMetrics(Collector):
    """The connections of the API, the size of their bodies, and refusals by limit."""

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self._limiter = limiter

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "tidelens_http_connections", "Connections to the API.", value=self._limiter.connections
        )
        yield GaugeMetricFamily(
            "tidelens_http_body_bytes",
            "Bytes of bodies and unfinished frames in memory, without the first 16 KiB of each.",
            value=self._limiter.body_bytes,
        )
        refused = CounterMetricFamily(
            "tidelens_http_refused",
            "Connections and bodies turned away, by the setting whose limit was reached.",
            labels=["limit"],
        )
        for limit, count in sorted(self._limiter.refused.items()):
            refused.add_metric([limit], count)
        yield refused


class ControlMetrics(Collector):
    """The records of the control topic that are ignored."""

    def __init__(self, faults: IgnoredRecords) -> None:
        self._faults = faults

    def collect(self) -> Iterable[Metric]:
        ignored = CounterMetricFamily(
            "tidelens_control_ignored_records",
            "Records of the control topic that were ignored, by what is wrong with them.",
            labels=["fault"],
        )
        for fault, count in sorted(self._faults.ignored.items()):
            ignored.add_metric([fault], count)
        yield ignored
        yield GaugeMetricFamily(
            "tidelens_control_refused_records",
            "Ignored records of the control topic that no good record has replaced yet.",
            value=len(self._faults.current),
        )


def _role(command: list[str]) -> str:
    return next((role for word, role in _ROLES.items() if word in command), "other")
