"""One content record on its way to an embedding: it is parsed, gets its vector, and is written.

These functions block and do no I/O. The worker runs them in threads; only they know the formats.
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
# Rejections without a tombstone: the item belongs to another partition, or cannot exist.
_LETTER_ALONE = frozenset({WRONG_PARTITION, "empty_id", "id_not_utf8", "id_too_long"})


@dataclass(frozen=True, slots=True)
class RecordChecks:
    """The facts that a record is checked against before it is encoded.

    `partition_counts` is by topic; `letter_bytes_max` limits the value of a dead letter.
    """

    names: Names
    partition_counts: dict[str, int]
    partition_of: Partitioner
    letter_bytes_max: int

    def for_lease(self, lease: Lease) -> "RecordChecks":
        """Return the checks for this lease, whose topic may have been created again meanwhile."""
        topic, count = lease.partition.topic, lease.partitions
        if count is None or count == self.partition_counts.get(topic):
            return self
        return replace(self, partition_counts={**self.partition_counts, topic: count})


@dataclass(slots=True)
class EncodeJob:
    """A record and its result: a vector, a rejection, or neither for a delete.

    `digest` is the key of the input in the vector cache, empty for a delete. `image` holds the
    pixels from decoding to the end of encoding. `attempts` counts those of decoding and encoding.
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
        """True when the result is known, so that only writing is left."""
        return self.rejection is not None or self.content is None or self.vector is not None


def newest_of_each(records: Sequence[Record]) -> list[Record]:
    """Leave out records that a later one of the same key replaces: compaction would drop them."""
    last = {record.key: record.offset for record in records}
    return [record for record in records if last[record.key] == record.offset]


def parse_records(records: Sequence[Record], checks: RecordChecks) -> list[EncodeJob]:
    """Check and parse the newest record of each key. What is wrong with one is in its job."""
    return [parse_record(record, checks) for record in newest_of_each(records)]


def parse_record(record: Record, checks: RecordChecks) -> EncodeJob:
    """Check and parse one record. What is wrong with it becomes the rejection of the job."""
    target = checks.names.target_of(record.topic)
    assert target is not None
    job = EncodeJob(record, target)
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
    """Log an error that should not happen, and return a rejection that keeps the partition going.

    It is a defect of Tidelens and not of the record, which is refused all the same.
    """
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


def encode_jobs(jobs: Sequence[EncodeJob], encoder: Encoder) -> None:
    """Give every job with an input its vector, in one model call for texts and one for pictures.

    The inputs of a call that fails are tried again one by one, so that one input cannot take others
    with it. A job that then fails alone is rejected as `encode_failed`.
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


def _encode(group: Sequence[EncodeJob], encoder: Encoder) -> None:
    if group[0].image is not None:
        vectors = encoder.encode_images([job.image for job in group if job.image is not None])
    else:
        vectors = encoder.encode_texts([job.text for job in group if job.text is not None])
    for job, vector in zip(group, vectors, strict=True):
        job.vector = vector


def output_records(
    job: EncodeJob,
    space: Space,
    checks: RecordChecks,
    topic_id: str,
    labeller: Labeller | None = None,
) -> list[OutRecord]:
    """Return what the transaction writes for one record.

    That is an embedding record with a vector, a tombstone, or a dead letter and a tombstone. A
    record in the wrong partition, or without a valid id, has the dead letter alone (invariant 3):
    the item's embeddings are in another partition, whose order this one must not touch. The content
    of the record never makes it raise.
    """
    try:
        return _outputs(job, space, checks, topic_id, labeller)
    except Exception as error:
        job.vector, job.rejection = None, unexpected_rejection(job.record, error)
        return _outputs(job, space, checks, topic_id, None)


def _outputs(
    job: EncodeJob, space: Space, checks: RecordChecks, topic_id: str, labeller: Labeller | None
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
    """Return the metadata with labels added, unless the producer gave labels."""
    if labeller is None or METADATA_KEY in content.metadata:
        return content.metadata
    return {**content.metadata, METADATA_KEY: labeller.labels_of(vector)}
