"""The metrics, by their Prometheus names; a process has one set of them for each of its spaces.

To add a metric, add an attribute to `Metrics`. Two other files make metrics, of state that their
objects hold anyway: tidelens/runtime/metrics_exposition.py (process, parts, connections, control
records) and contracts/supervision/side_tasks.py (failures of side tasks). The name of a gauge or
histogram ends in its unit; one without a unit goes into WITHOUT_UNIT of
tests/unit/tidelens/test_metrics.py.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from math import nan

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
)

from contracts.ports.lag import Lag

# From a millisecond, a search in memory, to a minute, an encoder that has just started.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class _SpaceRegistry(CollectorRegistry):
    """A registry that labels metrics with the space, since a process may serve two of them."""

    def __init__(self, space: str | None) -> None:
        super().__init__()
        self.space = space

    def collect(self) -> Iterable[Metric]:
        label = {} if self.space is None else {"space": self.space}
        for metric in super().collect():
            if metric.name.startswith("tidelens_"):
                metric.samples = [
                    sample._replace(labels=label | sample.labels) for sample in metric.samples
                ]
            yield metric


def register_process_metrics(registry: CollectorRegistry) -> None:
    """Add the metrics of the process: memory, processor time, open files, garbage collections."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


class Metrics:
    """The metrics of one space in one process. They have no label `space` until it is known.

    Times are in seconds and sizes in bytes, as Prometheus recommends. An unknown value is NaN.
    """

    def __init__(self, space: str | None = None) -> None:
        self.registry = r = _SpaceRegistry(space)
        self.encoded = Counter(
            "tidelens_encoded_records_total",
            "Content records turned into a vector or a tombstone.",
            ["target", "outcome"],
            registry=r,
        )
        self.encode_seconds = Histogram(
            "tidelens_encode_seconds",
            "Time in the model for one batch.",
            ["target"],
            buckets=_SECONDS,
            registry=r,
        )
        self.encode_batch = Histogram(
            "tidelens_encode_batch_records",
            "Records of one encoder batch.",
            buckets=_RECORDS,
            registry=r,
        )
        self.encode_reused = Counter(
            "tidelens_encode_reused_total",
            "Records whose input had been encoded before, or was in the same batch.",
            ["target"],
            registry=r,
        )
        self.encode_truncated = Counter(
            "tidelens_encode_truncated_total",
            "Texts cut at the number of tokens that the model takes.",
            registry=r,
        )
        self.transaction_seconds = Histogram(
            "tidelens_encode_transaction_seconds",
            "Time of one transaction, embeddings and offset.",
            buckets=_SECONDS,
            registry=r,
        )
        self.partitions_owned = Gauge(
            "tidelens_encode_partitions_owned", "Content partitions this encoder owns.", registry=r
        )
        self.fenced = Counter(
            "tidelens_encode_fenced_total",
            "Leases of this encoder that a newer owner ended.",
            registry=r,
        )
        self.dead_letters = Counter(
            "tidelens_dead_letters_total",
            "Records written to the dead letters.",
            ["stage", "reason"],
            registry=r,
        )
        self.applied = Counter(
            "tidelens_applied_records_total",
            "Embedding records applied to the index.",
            ["target"],
            registry=r,
        )
        self.apply_seconds = Histogram(
            "tidelens_apply_seconds", "Time to apply one batch.", buckets=_SECONDS, registry=r
        )
        self.misplaced = Counter(
            "tidelens_misplaced_records_total",
            "Embedding records skipped because their keys belong to other partitions.",
            registry=r,
        )
        self.partitions_added = Gauge(
            "tidelens_partitions_added",
            "Partitions added since a topic was made; nothing reads them.",
            ["topic"],
            registry=r,
        )
        self.items = Gauge("tidelens_index_items", "Live items.", ["target"], registry=r)
        self.snapshots = Counter(
            "tidelens_snapshots_total", "Snapshots, by outcome.", ["outcome"], registry=r
        )
        self.snapshot_at = Gauge(
            "tidelens_snapshot_timestamp_seconds",
            "When the last snapshot was written, in seconds since 1970.",
            registry=r,
        )
        self.snapshot_failed_at = Gauge(
            "tidelens_snapshot_failure_timestamp_seconds",
            "When a snapshot failed last, in seconds since 1970.",
            registry=r,
        )
        self.snapshot_blobs_lacking = Gauge(
            "tidelens_snapshot_blobs_lacking",
            "Blobs of kept snapshots that the store lacked when it was last listed.",
            registry=r,
        )
        self.snapshot_blobs_rewritten = Counter(
            "tidelens_snapshot_blobs_rewritten_total",
            "Blobs of snapshots that the store had lost and that were written again.",
            registry=r,
        )
        self.rebuilds = Counter(
            "tidelens_rebuilds_total", "Sealed segments built.", ["target", "outcome"], registry=r
        )
        self.rebuild_seconds = Gauge(
            "tidelens_rebuild_seconds",
            "How long the last build of a sealed segment took.",
            ["target"],
            registry=r,
        )
        self.audited_recall = Histogram(
            "tidelens_audited_recall",
            "Recall of sampled queries, measured against an exact search of the same query.",
            ["target"],
            buckets=(0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
            registry=r,
        )
        self.audits_skipped = Counter(
            "tidelens_audits_skipped_total",
            "Audits of recall skipped because the query could not be repeated.",
            ["target"],
            registry=r,
        )
        self.filter_rows_read = Counter(
            "tidelens_filter_rows_read_total",
            "Rows whose metadata was read because a filter asked for a field without an index.",
            registry=r,
        )
        self.stage_seconds = Histogram(
            "tidelens_stage_seconds",
            "Time from the append of a content record until it is encoded, searchable or pushed. "
            "Records that are replayed before the node is ready do not count as searchable.",
            ["stage"],
            buckets=_SECONDS,
            registry=r,
        )
        self.search_seconds = Histogram(
            "tidelens_search_seconds",
            "Time to answer one search request.",
            ["outcome"],
            buckets=_SECONDS,
            registry=r,
        )
        self.query_encode_seconds = Histogram(
            "tidelens_query_encode_seconds",
            "Time to turn a query's text or image into a vector.",
            ["kind", "cache"],
            buckets=_SECONDS,
            registry=r,
        )
        self.connections = Gauge(
            "tidelens_live_connections",
            "Open live connections: WebSockets and event streams.",
            registry=r,
        )
        self.subscriptions = Gauge("tidelens_live_subscriptions", "Live subscriptions.", registry=r)
        self.live_messages = Counter(
            "tidelens_live_messages_total", "Messages sent to subscribers.", ["type"], registry=r
        )
        self._live_messages_of: dict[str, Counter] = {}
        self.published = Counter(
            "tidelens_published_records_total", "Records published by the API.", registry=r
        )
        self.lag_records = Gauge(
            "tidelens_lag_records",
            "Records between a group's position and the last stable offset.",
            ["role", "group", "topic", "partition"],
            registry=r,
        )
        self.lag_seconds = Gauge(
            "tidelens_lag_seconds",
            "Age of the oldest record that a group has not processed.",
            ["role", "group", "topic", "partition"],
            registry=r,
        )
        self.unstable_records = Gauge(
            "tidelens_unstable_records",
            "Records between the last stable offset and the high watermark, which an open "
            "transaction holds back; only partitions with such records are listed.",
            ["topic", "partition"],
            registry=r,
        )
        self.unstable_seconds = Gauge(
            "tidelens_unstable_seconds",
            "How long an open transaction has held the partition's last stable offset.",
            ["topic", "partition"],
            registry=r,
        )
        self.group_members = Gauge(
            "tidelens_group_members",
            "Processes that do a group's work; an index node's group with 0 has no lag here.",
            ["role", "group"],
            registry=r,
        )
        self.behind_seconds = Gauge(
            "tidelens_behind_seconds",
            "Age of the oldest content record that is not searchable yet; NaN if it is unknown.",
            registry=r,
        )
        self.behind_seconds.set(nan)
        self.lag_read_at = Gauge(
            "tidelens_lag_read_timestamp_seconds",
            "When the lag was last read from the broker; it is NaN after a read failed.",
            registry=r,
        )
        self.queue_depth = Gauge(
            "tidelens_queue_depth",
            "What waits now: records to encode, references for the network to come back, "
            "queries to encode, requests in a search lane.",
            ["queue"],
            registry=r,
        )
        self.ready = Gauge("tidelens_ready", "1 when the node answers searches.", registry=r)
        self.ready.set(nan)
        self._lag_shown: dict[Gauge, dict[tuple[str, ...], float]] = {}

    def set_space(self, name: str) -> None:
        """Set the label `space`, where it was not known from the start."""
        self.registry.space = name

    @cached_property
    def pushed_seconds(self) -> Histogram:
        """The histogram of the stage `pushed`, cached since it is used for each message."""
        return self.stage_seconds.labels("pushed")

    def live_message_sent(self, message_type: str) -> None:
        """Count a live message of this type."""
        counter = self._live_messages_of.get(message_type)
        if counter is None:
            counter = self._live_messages_of[message_type] = self.live_messages.labels(message_type)
        counter.inc()

    def set_lag(self, lags: Sequence[Lag], now: float) -> None:
        """Set the lag that was read at the time `now`, in seconds since 1970.

        Groups and partitions that are not among `lags` any more are removed.
        """
        shown = self._lag_values(lags)
        for gauge, values in shown.items():
            for labels, value in values.items():
                gauge.labels(*labels).set(value)
            for labels in self._lag_shown.get(gauge, {}).keys() - values.keys():
                gauge.remove(*labels)
        self._lag_shown = shown
        self.lag_read_at.set(now)

    def _lag_values(self, lags: Sequence[Lag]) -> dict[Gauge, dict[tuple[str, ...], float]]:
        """Return the values of each gauge of the lag, by its labels."""
        shown: dict[Gauge, dict[tuple[str, ...], float]] = {gauge: {} for gauge in self._lag_gauges}
        for lag in lags:
            partition = (lag.topic, str(lag.partition))
            if lag.members is not None:
                shown[self.group_members][lag.role, lag.group] = lag.members
            if lag.unstable:
                shown[self.unstable_records][partition] = lag.unstable
                shown[self.unstable_seconds][partition] = lag.unstable_seconds
            if not lag.gone:
                shown[self.lag_records][lag.role, lag.group, *partition] = lag.records
                shown[self.lag_seconds][lag.role, lag.group, *partition] = lag.seconds
        return shown

    def clear_lag(self) -> None:
        """Set the lag to NaN while the broker is away, since the last figures may be wrong."""
        for gauge, values in self._lag_shown.items():
            for labels in values:
                gauge.labels(*labels).set(nan)

    @property
    def _lag_gauges(self) -> tuple[Gauge, ...]:
        """The gauges that come from the lag, which is not known while the broker is away."""
        return (
            self.lag_records,
            self.lag_seconds,
            self.unstable_records,
            self.unstable_seconds,
            self.group_members,
        )
