"""The metrics and the log line of a job whose result was committed."""

import structlog

from consumers.encode_job import EncodeJob
from contracts.events.content_body import ID_BYTES_MAX
from contracts.metrics import Metrics

log = structlog.get_logger(__name__)


def count_outcome(job: EncodeJob, metrics: Metrics, now: float) -> None:
    """Count a job's result and its age at `now`, in epoch seconds, and log a dead letter."""
    outcome = "vector" if job.vector is not None else "tombstone"
    metrics.encoded.labels(job.target, outcome).inc()
    age = max(0.0, now - job.record.timestamp_ms / 1000)
    metrics.stage_seconds.labels("encoded").observe(age)
    if job.rejection is not None:
        metrics.dead_letters.labels("encode", job.rejection.code).inc()
        log.warning(
            "dead letter",
            item=(job.record.key or b"")[:ID_BYTES_MAX].decode("utf-8", "replace"),
            topic=job.record.topic,
            partition=job.record.partition,
            offset=job.record.offset,
            reason=job.rejection.code,
            detail=job.rejection.message,
        )
