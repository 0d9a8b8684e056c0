"""The fold of the log into the index state, with one test for each form of a record."""

import numpy as np
import pytest

from contracts.errors import RejectedRecord, SpaceMismatch
from contracts.events.embedding_record import encode_embedding
from contracts.events.record import Fetched, Record, TopicPartition
from contracts.partitioner import partitioner
from contracts.score import unit
from contracts.space import Space
from contracts.topics import TARGETS
from index_store.index import Index
from index_store.partition_check import partitions_of
from tests.kits.index_kit import (
    IMAGES,
    MURMUR2,
    NAMES,
    SPACE,
    TOPIC_IDS,
    batch,
    filled,
    new_index,
    put,
    record,
    vectors,
)

ROWS = vectors(10)


def test_applying_tells_what_changed() -> None:
    index = filled(ROWS[:3])
    [applied] = index.apply(
        batch(
            record(3, "i0001", None, appended_ms=4),
            record(4, "never-there", None),
            record(5, "new", encode_embedding(SPACE, ROWS[3]), appended_ms=7),
            record(6, "i0000", encode_embedding(SPACE, ROWS[4]), appended_ms=8),
        )
    )
    assert (applied.target, applied.upserted, applied.removed) == (
        "images",
        ["new", "i0000"],
        ["i0001"],
    )
    assert np.array_equal(applied.vectors, ROWS[[3, 4]])
    assert applied.appended_ms == 4
    assert index.last_appended_ms == [7, 8]
    assert index.count("images") == 3
    assert index.get("images", "i0001") is None
    hit = index.get("images", "i0000")
    assert hit is not None
    assert hit.vector is not None
    assert np.array_equal(hit.vector, ROWS[4])
    assert (hit.rank, hit.source) == (0, ("t.images", 0, 6))


def test_the_last_record_of_an_id_in_a_batch_wins() -> None:
    index = new_index()
    [applied] = index.apply(
        batch(
            put(0, "a", ROWS[0]), put(1, "b", ROWS[1]), put(2, "a", ROWS[2]), record(3, "b", None)
        )
    )
    assert (applied.upserted, applied.removed) == (["a"], [])
    assert index.count("images") == 1


def test_a_repeat_changes_nothing() -> None:
    index = filled(ROWS)
    before = index.digests()
    assert index.apply(batch(put(2, "i0002", ROWS[9]), record(3, "i0003", None))) == []
    assert index.digests() == before
    assert index.count("images") == 10


def test_positions_advance_without_records_and_never_back() -> None:
    index = filled(ROWS)
    assert index.apply(Fetched({}, {IMAGES: 12})) == []
    assert index.as_of().offsets["images"] == [12]
    index.apply(Fetched({}, {IMAGES: 11}))
    assert index.positions[IMAGES] == 12
    # Without a position from the reader, the applied records advance it.
    index.apply(Fetched({IMAGES: [put(12, "x", ROWS[0])]}, {}))
    assert index.positions[IMAGES] == 13


def test_keys_of_other_partitions_are_ignored_and_counted() -> None:
    index = new_index(partitions=2)
    wrong = 1 - MURMUR2(b"a", 2)
    value = encode_embedding(SPACE, ROWS[0])
    applied = index.apply(batch(record(0, "a", value, partition=wrong)))
    assert applied == []
    assert (index.misplaced, index.count("images"), index.rejected) == (1, 0, [])
    assert index.as_of().offsets["images"][wrong] == 1


def test_another_partitioner_places_keys_elsewhere() -> None:
    crc32 = partitioner("crc32")
    item_id = next(
        f"k{n}" for n in range(99) if crc32(f"k{n}".encode(), 2) != MURMUR2(f"k{n}".encode(), 2)
    )
    place = crc32(item_id.encode(), 2)
    index = Index(SPACE, NAMES, dict.fromkeys(TARGETS, 2), TOPIC_IDS, partition_of=crc32)
    index.apply(batch(record(0, item_id, encode_embedding(SPACE, ROWS[0]), partition=place)))
    assert (index.misplaced, index.count("images")) == (0, 1)


def test_places_of_many_keys_are_those_of_the_contract() -> None:
    dice = np.random.default_rng(8)
    keys = [b"", b"\0", b"a\0", b"a\0\0\0", b"\xff" * 9, b"x" * 512, *(b"k" * n for n in range(20))]
    keys += [dice.bytes(int(n)) for n in dice.integers(0, 40, 300)]
    for count in (1, 3, 4096):
        expected = [MURMUR2(key, count) for key in keys]
        assert partitions_of(keys, count, MURMUR2).tolist() == expected
    long = [b"y" * 10_000, b"z"]
    assert partitions_of(long, 7, MURMUR2).tolist() == [MURMUR2(key, 7) for key in long]
    assert partitions_of([], 7, MURMUR2).tolist() == []


OTHER = Space("unit-v1", "m", "2", "p", 16)
GOOD = encode_embedding(SPACE, ROWS[9])
BODY = len(encode_embedding(SPACE, ROWS[9]))


def not_unit(vector: list[float]) -> bytes:
    return encode_embedding(SPACE, np.array(vector, np.float16))


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (b"TLE\x01 torn", RejectedRecord, "too few for the head"),
        (GOOD[:20], RejectedRecord, "too few for dim"),
        (b"XXXX" + GOOD[4:], RejectedRecord, "magic"),
        (GOOD[:-1], RejectedRecord, "not JSON|too few"),
        (GOOD[:-2] + b"[]", RejectedRecord, "JSON object"),
        (GOOD[:-2] + b'{"item":3}', RejectedRecord, "item and text to be strings"),
        (GOOD[:-2] + b'{"metadata":[1]}', RejectedRecord, "item and text to be strings"),
        (encode_embedding(OTHER, ROWS[9]), SpaceMismatch, "unit-v1"),
        (not_unit([2.0] + [0.0] * 15), RejectedRecord, "length 1, got 2"),
        (not_unit([0.0] * 16), RejectedRecord, "length 1, got 0"),
        (not_unit([float("nan")] * 16), RejectedRecord, "length 1, got nan"),
        (not_unit([float("inf")] + [0.0] * 15), RejectedRecord, "length 1, got inf"),
    ],
)
def test_an_unreadable_record_is_given_back_and_takes_its_item_out(
    value: bytes, kind: type[Exception], words: str
) -> None:
    """Compaction drops the good record before the bad one, so the live state drops the item too."""
    index = filled(ROWS)
    bad = record(10, "i0004", value)
    [applied] = index.apply(batch(bad, put(11, "after", ROWS[0])))
    [(given_back, error)] = index.rejected
    assert given_back is bad
    assert isinstance(error, kind)
    with pytest.raises(kind, match=words):
        raise error
    assert (applied.upserted, applied.removed) == (["after"], ["i0004"])
    replayed = new_index()
    kept = [put(n, f"i{n:04}", row) for n, row in enumerate(ROWS) if n != 4]
    replayed.apply(batch(*kept, bad, put(11, "after", ROWS[0])))
    assert replayed.digests() == index.digests()
    assert index.highest_source("images", 0) == 11
    assert (
        "invalid_embedding" in str(index.rejection_reason("images", 0, 10)) or kind is SpaceMismatch
    )


def test_a_record_without_key_or_source_is_given_back() -> None:
    index = filled(ROWS[:1])
    records = [
        Record(*IMAGES, 1, 9, None, GOOD, [("source", b"content:0:1")]),
        Record(*IMAGES, 2, 9, b"\xff", GOOD, [("source", b"content:0:2")]),
        Record(*IMAGES, 3, 9, b"i0000", GOOD, []),
        Record(*IMAGES, 4, 9, b"i0000", GOOD, [("source", b"nonsense")]),
    ]
    index.apply(batch(*records))
    assert [given for given, _ in index.rejected] == records
    assert index.count("images") == 0
    assert index.highest_source("images", 0) == 2
    assert index.apply(batch(put(5, "x", ROWS[0])))
    assert index.rejected == []


def test_what_a_newer_writer_adds_is_read() -> None:
    """Reserved bytes and unknown members are ignored, as in contracts.events.embedding_record."""
    value = GOOD[:14] + b"\x01\x00" + GOOD[16:-2] + b'{"text":"t","later":1}'
    index = new_index()
    index.apply(batch(record(0, "a", value)))
    hit = index.get("images", "a")
    assert hit is not None
    assert hit.text == "t"


def test_tombstones_tell_their_reason_and_source() -> None:
    index = filled(ROWS)
    index.apply(batch(record(10, "i0001", None, reason="image_broken: torn")))
    assert index.rejection_reason("images", 0, 10) == "image_broken: torn"
    assert index.rejection_reason("captions", 0, 10) is None
    assert index.highest_source("images", 0) == 10
    assert index.highest_source("captions", 0) == -1


def test_a_tombstone_answers_for_a_key_that_is_no_text() -> None:
    """The encoder could not read the id either, but a client that waits for it gets the reason."""
    index = filled(ROWS)
    headers = [("source", b"content:0:10"), ("reason", b"id_not_utf8: key")]
    index.apply(batch(Record(*IMAGES, 10, 9, b"\xff", None, headers)))
    assert index.rejected == []
    assert index.rejection_reason("images", 0, 10) == "id_not_utf8: key"
    assert index.highest_source("images", 0) == 10
    assert index.count("images") == 10


def test_remembered_reasons_are_bounded() -> None:
    index = new_index()
    index.apply(batch(*(record(n, "a", None, reason=f"r{n}") for n in range(10_005))))
    assert index.rejection_reason("images", 0, 4) is None
    assert index.rejection_reason("images", 0, 5) == "r5"


def test_the_highest_source_starts_over_with_a_recreated_content_topic() -> None:
    index = filled(ROWS)
    index.apply(batch(record(10, "z", GOOD, source=b"recreated:0:2")))
    assert index.highest_source("images", 0) == 2
    index.apply(batch(record(11, "y", GOOD, source=b"recreated:0:1")))
    assert index.highest_source("images", 0) == 2


def test_the_epoch_names_the_log() -> None:
    assert new_index().epoch == new_index().epoch
    recreated = {**TOPIC_IDS, IMAGES.topic: "another"}
    assert new_index(topic_ids=recreated).epoch != new_index().epoch


def test_caught_up_never_goes_back() -> None:
    index = new_index()
    index.mark_caught_up(IMAGES, 5.0)
    index.mark_caught_up(IMAGES, 4.0)
    assert index.caught_up_at == {IMAGES: 5.0}


def test_the_digest_is_of_everything_that_an_item_is() -> None:
    def digest(item_id: str = "a", offset: int = 0, row: int = 0, **body: object) -> object:
        index = new_index()
        index.apply(batch(put(offset, item_id, ROWS[row], **body)))
        return index.digests()[1]["digest"]

    plain = digest()
    assert plain != f"{0:032x}"
    assert digest(metadata={"a": 1, "b": 2}) == digest(metadata={"b": 2, "a": 1})
    others = [
        digest("b"),
        digest(offset=1),
        digest(row=1),
        digest(item="x"),
        digest(text="x"),
        digest(metadata={"a": 1}),
        digest(metadata={"a": 2}),
    ]
    assert len({plain, *others}) == 8


def test_verifying_finds_memory_gone_bad() -> None:
    index = filled(ROWS)
    index.apply(batch(record(10, "i0004", None)))
    assert index.digests_match()
    rows, _ = next(index.view.rows("images"))
    rows.vectors[4, 0] += 1  # a deleted row, which is not part of the state
    assert index.digests_match()
    rows.vectors[3, 0] += 1
    assert not index.digests_match()


def test_emptied_is_of_the_same_log() -> None:
    index = filled(ROWS)
    empty = index.empty_copy()
    assert (empty.count("images"), empty.epoch) == (0, index.epoch)
    assert empty.positions == dict.fromkeys(index.positions, 0)
    assert empty.apply(batch(put(0, "a", unit(ROWS[0]))))
    assert TopicPartition("t.embeddings.unit-v1.captions", 0) in empty.positions
