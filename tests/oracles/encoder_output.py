"""The output that an encoder owes for a content topic, by brute force, and the differences.

None of the encoder's own reading is used: the publisher of a record says what it means.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.events.dead_letter import original_headers, read_letter
from contracts.events.embedding_record import Embedding, read_embedding
from contracts.events.record import Record, RecordPosition
from contracts.score import Vectors
from contracts.testing.encoder import HashEncoder

ENCODER = HashEncoder()
# A bad record that leaves the item of its key alone.
LETTER_ALONE = frozenset({"wrong_partition", "empty_id"})

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Meant:
    """The outcome that one record must have: a text, a plain picture, a dead letter or a delete."""

    text: str | None = None
    colour: Colour | None = None
    reason: str | None = None
    item: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        return self.reason is None and not (self.text is None and self.colour is None)

    @property
    def is_embedded(self) -> bool:
        """Return whether the outcome includes a vector or a tombstone."""
        return self.reason not in LETTER_ALONE

    def vector(self) -> Vectors:
        if self.text is not None:
            return ENCODER.encode_texts([self.text])[0]
        return ENCODER.encode_images([np.full((4, 4, 3), self.colour, np.uint8)])[0]


@dataclass(frozen=True)
class Truth:
    """One content topic, all of it, and what its records mean."""

    topic: str
    topic_id: str
    content: Mapping[int, Sequence[Record]]
    meant: Callable[[Record], Meant]

    def violations(
        self, embedded: Mapping[int, Sequence[Record]], letters: Mapping[int, Sequence[Record]]
    ) -> Iterator[str]:
        """`letters` may hold those of other topics."""
        told: dict[RecordPosition, list[Record]] = defaultdict(list)
        for records in letters.values():
            yield from _rising("dead letters", map(_source_of_letter, records))
            for letter in records:
                told[_source_of_letter(letter)].append(letter)
        for partition, records in self.content.items():
            embeddings = [read_embedding(ENCODER.space, r) for r in embedded[partition]]
            yield from _rising(f"{self.topic}-{partition}", map(_source, embeddings))
            yield from self._of_partition(records, embeddings, told)

    def _of_partition(
        self,
        records: Sequence[Record],
        embeddings: Sequence[Embedding],
        told: Mapping[RecordPosition, Sequence[Record]],
    ) -> Iterator[str]:
        made = {embedding.source.offset: embedding for embedding in embeddings}
        newest = {record.key: record.offset for record in records}
        for record in records:
            at = RecordPosition(record.topic, record.partition, record.offset)
            meant, embedding = self.meant(record), made.pop(record.offset, None)
            letters = told.get(at, [])
            # Only what was superseded in its own transaction may be left out, letter and all.
            if embedding is None and not letters and newest[record.key] != record.offset:
                continue
            if wrong := [
                *self._embedding(record, meant, embedding),
                *_letter(record, meant, letters),
            ]:
                yield f"{at.topic}-{at.partition}@{at.offset}, meant {meant}: {'; '.join(wrong)}"
        for offset in made:
            yield f"{self.topic}: an embedding of offset {offset}, where no record is"

    def _embedding(
        self, record: Record, meant: Meant, embedding: Embedding | None
    ) -> Iterator[str]:
        if embedding is None:
            if meant.is_embedded:
                yield "no embedding or tombstone"
            return
        source = embedding.source
        if not meant.is_embedded:
            yield "an embedding or tombstone beside the dead letter"
        if embedding.id.encode() != record.key:
            yield f"of another item, {embedding.id}"
        if (source.topic_id, source.partition) != (self.topic_id, record.partition):
            yield f"of another source, {source}"
        if meant.is_live != (embedding.vector is not None):
            yield "live" if embedding.vector is not None else "a tombstone"
        elif embedding.vector is not None:
            yield from _state(meant, embedding)
        elif (embedding.reason or "").partition(":")[0] != (meant.reason or ""):
            yield f"a tombstone for the reason {embedding.reason}"


def _state(meant: Meant, embedding: Embedding) -> Iterator[str]:
    if not np.array_equal(embedding.vector, meant.vector()):  # type: ignore[arg-type]
        yield "another vector"
    got = (embedding.text, embedding.item, embedding.metadata)
    if got != (meant.text, meant.item, meant.metadata):
        yield f"text, item and metadata are {got}"


def _letter(record: Record, meant: Meant, letters: Sequence[Record]) -> Iterator[str]:
    if len(letters) != (meant.reason is not None):
        yield f"{len(letters)} dead letters"
    for letter in letters:
        read = read_letter(letter)
        assert read is not None
        if read.reason != meant.reason:
            yield f"a dead letter for the reason {read.reason}"
        got = (letter.key, letter.value, original_headers(letter))
        if got != (record.key, record.value, list(record.headers)):
            yield "the dead letter is not the record as it was"


def _source(embedding: Embedding) -> RecordPosition:
    return RecordPosition("", embedding.source.partition, embedding.source.offset)


def _source_of_letter(record: Record) -> RecordPosition:
    letter = read_letter(record)
    assert letter is not None and letter.source is not None
    return letter.source


def _rising(where: str, sources: Iterable[RecordPosition]) -> Iterator[str]:
    """Require that source offsets rise strictly: in source order, and nothing twice."""
    last: dict[tuple[str, int], int] = {}
    for topic, partition, offset in sources:
        before = last.get((topic, partition), -1)
        if offset <= before:
            yield f"{where}: offset {offset} of {topic}-{partition} comes behind {before}"
        last[topic, partition] = offset
