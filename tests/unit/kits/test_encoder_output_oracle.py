"""The judge of an encoder storm sees each way in which an encoder could be wrong."""

from dataclasses import replace

import pytest

from contracts.errors import RejectedRecord
from contracts.events.dead_letter import dead_letter_record
from contracts.events.embedding_record import embedding_record, encode_embedding
from contracts.events.record import OutRecord, Record, Source
from tests.oracles.encoder_output import ENCODER, Meant, Truth

MEANT = [
    Meant(text="red", metadata={"n": 1}),
    Meant(text="blue"),
    Meant(),
    Meant(reason="invalid_json"),
    Meant(reason="wrong_partition"),
    Meant(text="sea", item="group"),
]
KEYS = [b"a", b"b", b"c", b"d", b"a-astray", b"a"]
CONTENT = [Record("captions", 0, n, 1, key, b"{}", []) for n, key in enumerate(KEYS)]
TRUTH = Truth("captions", "id", {0: CONTENT}, lambda record: MEANT[record.offset])


def as_read(records: list[OutRecord]) -> list[Record]:
    return [
        Record(r.topic, 0, n, 1, r.key, r.value, list(r.headers)) for n, r in enumerate(records)
    ]


def embedding(
    offset: int, meant: Meant | None = None, *, source: Source | None = None
) -> OutRecord:
    meant = meant or MEANT[offset]
    value = None
    if meant.is_live:
        value = encode_embedding(
            ENCODER.space,
            meant.vector(),
            text=meant.text,
            item=meant.item,
            metadata=meant.metadata,
        )
    where = source or Source("id", 0, offset)
    reason = f"{meant.reason}: why" if meant.reason else None
    return embedding_record("embeddings", CONTENT[offset], where, value, reason=reason)


def letter(offset: int, reason: str | None = None) -> OutRecord:
    rejection = RejectedRecord(reason or MEANT[offset].reason or "none", "why")
    return dead_letter_record(
        "dead",
        CONTENT[offset],
        rejection,
        stage="encode",
        space="a-v1",
        attempts=1,
        bytes_max=9_999,
    )


EMBEDDINGS = [embedding(n) for n in (0, 1, 2, 3, 5)]
LETTERS = [letter(3), letter(4)]


def violations(embeddings: list[OutRecord], letters: list[OutRecord]) -> list[str]:
    return list(TRUTH.violations({0: as_read(embeddings)}, {0: as_read(letters)}))


def test_what_was_meant_is_no_violation() -> None:
    assert violations(EMBEDDINGS, LETTERS) == []


def test_a_superseded_record_may_be_left_out() -> None:
    assert violations(EMBEDDINGS[1:], LETTERS) == []


@pytest.mark.parametrize(
    ("embeddings", "letters", "told"),
    [
        ([*EMBEDDINGS, embedding(5)], LETTERS, "comes behind"),
        ([EMBEDDINGS[1], EMBEDDINGS[0], *EMBEDDINGS[2:]], LETTERS, "comes behind"),
        (EMBEDDINGS[:-1], LETTERS, "no embedding"),
        ([*EMBEDDINGS[:2], *EMBEDDINGS[3:]], LETTERS, "no embedding"),
        ([*EMBEDDINGS[:3], EMBEDDINGS[4]], LETTERS, "no embedding"),
        ([*EMBEDDINGS[:4], embedding(4), EMBEDDINGS[4]], LETTERS, "beside the dead letter"),
        ([embedding(0), embedding(1, Meant()), *EMBEDDINGS[2:]], LETTERS, "a tombstone"),
        ([*EMBEDDINGS[:2], embedding(2, Meant(text="x")), *EMBEDDINGS[3:]], LETTERS, "live"),
        ([*EMBEDDINGS[:4], embedding(5, Meant(text="sky"))], LETTERS, "another vector"),
        ([*EMBEDDINGS[:4], embedding(5, Meant(text="sea"))], LETTERS, "item and metadata"),
        ([*EMBEDDINGS[:4], embedding(5, source=Source("old", 0, 5))], LETTERS, "another source"),
        ([*EMBEDDINGS, embedding(5, source=Source("id", 0, 9))], LETTERS, "where no record is"),
        (EMBEDDINGS, LETTERS[:1], "0 dead letters"),
        (EMBEDDINGS, [LETTERS[0], *LETTERS], "2 dead letters"),
        (EMBEDDINGS, LETTERS[::-1], "comes behind"),
        (EMBEDDINGS, [letter(2), *LETTERS], "1 dead letters"),
        (EMBEDDINGS, [letter(3, "invalid_content"), LETTERS[1]], "for the reason"),
        (EMBEDDINGS, [replace(LETTERS[0], value=b"{"), LETTERS[1]], "not the record as it was"),
    ],
)
def test_an_unmeant_output_is_reported(
    embeddings: list[OutRecord], letters: list[OutRecord], told: str
) -> None:
    assert any(told in violation for violation in violations(embeddings, letters))
