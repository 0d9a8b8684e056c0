"""One content record on its way to an embedding: parsed, decoded, then given its vector.

Pure and blocking; the worker runs these in threads and knows no formats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from consumers.images import decode_image
from consumers.labelling import METADATA_KEY, Labeller
from consumers.references import read_reference
from contracts.dead_letters import dead_letter_record
from contracts.embedding import embedding_record, encode_value
from contracts.errors import RejectedRecord
from contracts.events import Content, Metadata, id_of_key, read_content
from contracts.partitioning import Partitioner
from contracts.ports import Encoder, Preprocess, RgbImage
from contracts.records import OutRecord, Record, Source
from contracts.score import Vectors
from contracts.space import Space
from contracts.topics import Names, Target

log = structlog.get_logger(__name__)

WRONG_PARTITION = "wrong_partition"
# Rejections that leave nothing to take out: the item lives in another partition, or nowhere.
_LETTER_ALONE = frozenset({WRONG_PARTITION, "empty_id", "id_not_utf8", "id_too_long"})


@dataclass(frozen=True, slots=True)
class Intake:
    """What a record is checked against before it costs anything, and what a letter may cost."""

    names: Names
    partition_counts: dict[str, int]
    partition_of: Partitioner
    allow_roots: Sequence[Path]
    image_bytes_max: int
    image_pixels_max: int
    preprocess: Preprocess
    letter_bytes_max: int


@dataclass(slots=True)
class Job:
    """A record and what became of it: a rejection, a delete (neither), or an input to encode."""

    record: Record
    target: Target
    content: Content | None = None
    image: RgbImage | None = None
    rejection: RejectedRecord | None = None
    attempts: int = 1
    vector: Vectors | None = None
    labels: Sequence[str] | None = None

    @property
    def text(self) -> str | None:
        return self.content.text if self.content else None


def newest_of_each(records: Sequence[Record]) -> list[Record]:
    """Without those superseded within the same transaction: compaction would take them anyway."""
    last = {record.key: record.offset for record in records}
    return [record for record in records if last[record.key] == record.offset]


def prepare(record: Record, intake: Intake) -> Job:
    """Check, parse and decode one record. Never raises for what is in the record."""
    target = intake.names.target_of(record.topic)
    assert target is not None
    job = Job(record, target)
    try:
        id_of_key(record.key)
        _check_partition(record, intake)
        job.content = read_content(target, record)
        if job.content is not None and target == "images":
            job.image = _decode(job.content, intake)
    except RejectedRecord as rejection:
        job.rejection = rejection
    except Exception as error:
        job.rejection = _unreadable(record, error)
    return job


def _unreadable(record: Record, error: Exception) -> RejectedRecord:
    """For what nobody foresaw: a defect of ours, but it must not stop the partition."""
    log.error(
        "unforeseen failure of one record",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        error=repr(error),
        exc_info=error,
    )
    return RejectedRecord("unreadable", f"an unforeseen failure: {error!r}")


def _check_partition(record: Record, intake: Intake) -> None:
    count = intake.partition_counts[record.topic]
    expected = intake.partition_of(record.key or b"", count)
    if expected != record.partition:
        raise RejectedRecord(
            WRONG_PARTITION,
            f"partition: this key belongs to {expected} of {count}, found in {record.partition} "
            "(a producer with another partitioner? see TIDELENS_PARTITIONER)",
            field="partition",
            limit=expected,
            value=record.partition,
        )


def _decode(content: Content, intake: Intake) -> RgbImage:
    data = content.image
    if data is None:
        assert content.ref is not None
        data = read_reference(
            content.ref,
            content.sha256,
            allow_roots=intake.allow_roots,
            bytes_max=intake.image_bytes_max,
        )
    return intake.preprocess(
        decode_image(
            data,
            bytes_max=intake.image_bytes_max,
            pixels_max=intake.image_pixels_max,
            side_hint=intake.preprocess.side,
        )
    )


def encode_jobs(jobs: Sequence[Job], encoder: Encoder) -> None:
    """Give every encodable job its vector, in as few model calls as there are kinds of input.

    A batch that fails is tried again one by one, so that one input cannot take others with it;
    what fails alone twice is rejected as `encode_failed`.
    """
    texts = [job for job in jobs if job.rejection is None and job.text is not None]
    images = [job for job in jobs if job.rejection is None and job.image is not None]
    for group in (texts, images):
        if not group:
            continue
        try:
            _encode(group, encoder)
        except Exception:
            for job in group:
                job.attempts = 2
                try:
                    _encode([job], encoder)
                except Exception as error:
                    job.rejection = RejectedRecord("encode_failed", f"the model failed: {error!r}")


def label_jobs(jobs: Sequence[Job], labeller: Labeller) -> None:
    """Give what has a vector its labels."""
    for job in jobs:
        if job.vector is not None:
            job.labels = labeller.labels_of(job.vector)


def _encode(group: Sequence[Job], encoder: Encoder) -> None:
    if group[0].image is not None:
        vectors = encoder.encode_images([job.image for job in group if job.image is not None])
    else:
        vectors = encoder.encode_texts([job.text for job in group if job.text is not None])
    for job, vector in zip(group, vectors, strict=True):
        job.vector = vector


def outputs(job: Job, space: Space, intake: Intake, topic_id: str) -> list[OutRecord]:
    """What the transaction holds for one record: a vector, a tombstone, a dead letter with one.

    A record in the wrong partition writes the dead letter alone (invariant 3): its item's
    embeddings live in another partition, whose order this one must not touch. Never raises for
    what is in the record.
    """
    try:
        return _outputs(job, space, intake, topic_id)
    except Exception as error:
        job.vector, job.rejection = None, _unreadable(job.record, error)
        return _outputs(job, space, intake, topic_id)


def _outputs(job: Job, space: Space, intake: Intake, topic_id: str) -> list[OutRecord]:
    record = job.record
    source = Source(topic_id, record.partition, record.offset)
    topic = intake.names.embeddings(job.target)
    if job.rejection is not None:
        letter = dead_letter_record(
            intake.names.dead_letters,
            record,
            job.rejection,
            stage="encode",
            attempts=job.attempts,
            bytes_max=intake.letter_bytes_max,
        )
        if job.rejection.code in _LETTER_ALONE:
            return [letter]
        reason = f"{job.rejection.code}: {job.rejection.message}"
        return [letter, embedding_record(topic, record, source, None, reason=reason)]
    if job.content is None or job.vector is None:
        return [embedding_record(topic, record, source, None)]
    value = encode_value(
        space,
        job.vector,
        item=job.content.item,
        text=job.content.text,
        metadata=_metadata(job.content, job.labels),
    )
    return [embedding_record(topic, record, source, value)]


def _metadata(content: Content, labels: Sequence[str] | None) -> Metadata:
    """With labels, unless the producer gave its own."""
    if labels is None or METADATA_KEY in content.metadata:
        return content.metadata
    return {**content.metadata, METADATA_KEY: list(labels)}
