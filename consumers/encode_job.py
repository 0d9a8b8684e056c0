"""One content record on its way to an embedding: parsed, given its vector, written.

Pure and blocking; the worker runs these in threads and knows no formats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from consumers.labelling import METADATA_KEY, Labeller
from consumers.vector_cache import digest_of_image, digest_of_sha256, digest_of_text
from contracts.errors import RejectedRecord
from contracts.events.content_body import Metadata
from contracts.events.content_event import Content, id_of_key, read_content
from contracts.events.dead_letter import dead_letter_record
from contracts.events.embedding_record import embedding_record, encode_embedding
from contracts.events.record import OutRecord, Record, Source
from contracts.partitioner import Partitioner
from contracts.ports.encoder import Encoder, RgbImage
from contracts.ports.ownership import Lease
from contracts.score import Vectors
from contracts.space import Space
from contracts.topics import Names, Target

log = structlog.get_logger(__name__)

WRONG_PARTITION = "wrong_partition"
# Rejections that leave nothing to take out: the item lives in another partition, or nowhere.
_LETTER_ALONE = frozenset({WRONG_PARTITION, "empty_id", "id_not_utf8", "id_too_long"})


@dataclass(frozen=True, slots=True)
class RecordChecks:
    """What a record is checked against before it costs anything, and what a letter may cost."""

    names: Names
    partition_counts: dict[str, int]
    partition_of: Partitioner
    letter_bytes_max: int

    def for_lease(self, lease: Lease) -> "RecordChecks":
        """Return the checks for this lease, whose topic may have been made again meanwhile."""
        topic, count = lease.partition.topic, lease.partitions
        if count is None or count == self.partition_counts.get(topic):
            return self
        return replace(self, partition_counts={**self.partition_counts, topic: count})


@dataclass(slots=True)
class Job:
    """A record and what became of it: a rejection, a delete (neither), or an input to encode.

    `digest` is of the input, where there is one; `image` is what the model takes.
    """

    record: Record
    target: Target
    content: Content | None = None
    digest: bytes = b""
    image: RgbImage | None = None
    rejection: RejectedRecord | None = None
    attempts: int = 1
    vector: Vectors | None = None

    @property
    def text(self) -> str | None:
        return self.content.text if self.content else None

    @property
    def ref(self) -> str | None:
        return self.content.ref if self.content else None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do but to write it."""
        return self.rejection is not None or self.content is None or self.vector is not None


def newest_of_each(records: Sequence[Record]) -> list[Record]:
    """Without those superseded within the same transaction: compaction would take them anyway."""
    last = {record.key: record.offset for record in records}
    return [record for record in records if last[record.key] == record.offset]


def parse_records(records: Sequence[Record], checks: RecordChecks) -> list[Job]:
    """Check and parse the records of one transaction. Never raises for what is in them."""
    return [parse_record(record, checks) for record in newest_of_each(records)]


def parse_record(record: Record, checks: RecordChecks) -> Job:
    target = checks.names.target_of(record.topic)
    assert target is not None
    job = Job(record, target)
    try:
        id_of_key(record.key)
        _check_partition(record, checks)
        job.content = read_content(target, record)
        if job.content is not None:
            job.digest = _digest(job.content)
    except RejectedRecord as rejection:
        job.rejection = rejection
    except Exception as error:
        job.rejection = unexpected_rejection(record, error)
    return job


def _digest(content: Content) -> bytes:
    if content.text is not None:
        return digest_of_text(content.text)
    if content.image is not None:
        return digest_of_image(content.image)
    assert content.sha256 is not None
    return digest_of_sha256(content.sha256)


def unexpected_rejection(record: Record, error: Exception) -> RejectedRecord:
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


def _check_partition(record: Record, checks: RecordChecks) -> None:
    count = checks.partition_counts[record.topic]
    expected = checks.partition_of(record.key or b"", count)
    if expected != record.partition:
        raise RejectedRecord(
            WRONG_PARTITION,
            f"partition: this key belongs to {expected} of {count}, found in {record.partition} "
            "(a producer with another partitioner? see TIDELENS_PARTITIONER)",
            field="partition",
            limit=expected,
            value=record.partition,
        )


def encode_jobs(jobs: Sequence[Job], encoder: Encoder) -> None:
    """Give every encodable job its vector, in as few model calls as there are kinds of input.

    A batch that fails is tried again one by one, so that one input cannot take others with it;
    what fails alone twice is rejected as `encode_failed`.
    """
    texts = [job for job in jobs if job.text is not None]
    images = [job for job in jobs if job.image is not None]
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


def _encode(group: Sequence[Job], encoder: Encoder) -> None:
    if group[0].image is not None:
        vectors = encoder.encode_images([job.image for job in group if job.image is not None])
    else:
        vectors = encoder.encode_texts([job.text for job in group if job.text is not None])
    for job, vector in zip(group, vectors, strict=True):
        job.vector = vector


def output_records(
    job: Job, space: Space, checks: RecordChecks, topic_id: str, labeller: Labeller | None = None
) -> list[OutRecord]:
    """What the transaction holds for one record: a vector, a tombstone, a dead letter with one.

    A record in the wrong partition writes the dead letter alone (invariant 3): its item's
    embeddings live in another partition, whose order this one must not touch. Never raises for
    what is in the record.
    """
    try:
        return _outputs(job, space, checks, topic_id, labeller)
    except Exception as error:
        job.vector, job.rejection = None, unexpected_rejection(job.record, error)
        return _outputs(job, space, checks, topic_id, None)


def _outputs(
    job: Job, space: Space, checks: RecordChecks, topic_id: str, labeller: Labeller | None
) -> list[OutRecord]:
    record = job.record
    source = Source(topic_id, record.partition, record.offset)
    topic = checks.names.embeddings(job.target)
    if job.rejection is not None:
        letter = dead_letter_record(
            checks.names.dead_letters,
            record,
            job.rejection,
            stage="encode",
            space=space.name,
            attempts=job.attempts,
            bytes_max=checks.letter_bytes_max,
        )
        if job.rejection.code in _LETTER_ALONE:
            return [letter]
        reason = f"{job.rejection.code}: {job.rejection.message}"
        return [letter, embedding_record(topic, record, source, None, reason=reason)]
    if job.content is None or job.vector is None:
        return [embedding_record(topic, record, source, None)]
    value = encode_embedding(
        space,
        job.vector,
        item=job.content.item,
        text=job.content.text,
        metadata=_metadata(job.content, job.vector, labeller),
    )
    return [embedding_record(topic, record, source, value)]


def _metadata(content: Content, vector: Vectors, labeller: Labeller | None) -> Metadata:
    """With labels, unless the producer gave its own."""
    if labeller is None or METADATA_KEY in content.metadata:
        return content.metadata
    return {**content.metadata, METADATA_KEY: labeller.labels_of(vector)}
