"""A new space against the served one: live ids on the log in memory, overlap and recall by hand."""

from collections.abc import Iterable

import pytest

from contracts.errors import TidelensError
from contracts.events.record import OutRecord, Source, TopicPartition
from contracts.testing.event_log import MemoryEventLog, MemoryLogReader
from contracts.topics import TARGETS, Names, Target
from streams.ownership.embedding_entries import MissingItem
from tidelens.migration.compare import LiveIdComparison, compare_sets, overlap, recall

pytestmark = pytest.mark.anyio

OLD, NEW = Names("t.", "old"), Names("t.", "new")
COUNTS: dict[Target, int] = dict.fromkeys(TARGETS, 1)


class Log:
    """Contents, and what encoders of two spaces made of them."""

    def __init__(self) -> None:
        topics = {names.embeddings(target): 1 for names in (OLD, NEW) for target in TARGETS}
        self.log = MemoryEventLog(topics | {OLD.content(target): 1 for target in TARGETS})
        self.content = TopicPartition(OLD.content("captions"), 0)

    async def publish(self, item: str, value: bytes | None = b"x") -> int:
        topic = self.content.topic
        [place] = await self.log.publish([OutRecord(topic, item.encode(), value, partition=0)])
        return place.offset

    async def encoded(
        self, names: Names, item: str, offset: int, value: bytes | None = b"v", reason: str = ""
    ) -> None:
        headers = [("source", Source("id", 0, offset).encode())]
        if reason:
            headers.append(("reason", reason.encode()))
        topic = names.embeddings("captions")
        await self.log.publish([OutRecord(topic, item.encode(), value, headers, partition=0)])
        await self.log.commit(names.encoder_group, {self.content: offset + 1})

    async def compare(self, **limits: float) -> LiveIdComparison:
        return await compare_sets(self.log, OLD, NEW, COUNTS, **limits)


async def test_equal_sets_lack_nothing() -> None:
    log = Log()
    for name in ("a", "b"):
        offset = await log.publish(name)
        await log.encoded(OLD, name, offset)
        await log.encoded(NEW, name, offset)
    sets = await log.compare()
    assert sets.wire() == {
        "items": {"images": {"old": 0, "new": 0}, "captions": {"old": 2, "new": 2}},
        "missing_count": 0,
        "missing_reasons": {},
        "missing": [],
    }


async def test_what_is_missing_is_told_with_its_reason() -> None:
    log = Log()
    for name in ("a", "b"):
        offset = await log.publish(name)
        await log.encoded(OLD, name, offset)
    await log.encoded(NEW, "a", 1, None, "invalid_image: cannot be decoded")
    sets = await log.compare()
    assert sets.missing == [
        MissingItem("captions", "a", "invalid_image: cannot be decoded"),
        MissingItem("captions", "b", "absent: its content record left no embedding"),
    ]
    assert dict(sets.reasons) == {"invalid_image": 1, "absent": 1}


async def test_what_was_deleted_since_and_ghosts_of_the_old_space_are_not_missing() -> None:
    log = Log()
    first = await log.publish("a")
    await log.encoded(OLD, "a", first)
    await log.encoded(NEW, "a", first)
    # Deleted, which the old space has not seen yet.
    deleted = await log.publish("a", None)
    await log.encoded(NEW, "a", deleted, None)
    # Published by nobody: a ghost.
    await log.encoded(OLD, "ghost", first)
    sets = await log.compare()
    assert sets.missing_count == 0
    # At the offset that the old space has come to, the new one held it too.
    assert (sets.old["captions"], sets.new["captions"]) == (2, 1)


BAD = "invalid_json: value: not JSON"


async def test_a_bad_record_that_only_the_new_space_has_seen_is_nobodys_loss() -> None:
    """It overwrote the item after the old space was read, and will take it out there too."""
    log = Log()
    for name in ("a", "b", "c", "d"):
        await log.encoded(OLD, name, await log.publish(name))
    await log.encoded(NEW, "a", 0)
    await log.encoded(NEW, "b", 1)
    # The records of "c" and "d" were skipped for the newer ones, as of one transaction.
    bad = [await log.publish(name) for name in ("a", "c")]
    deleted = await log.publish("d", None)
    await log.encoded(NEW, "a", bad[0], None, BAD)
    await log.encoded(NEW, "c", bad[1], None, BAD)
    await log.encoded(NEW, "d", deleted, None)
    sets = await log.compare()
    assert sets.missing == []
    assert (sets.old["captions"], sets.new["captions"]) == (4, 4)
    # Once the old space has come there too, both lack them.
    for name, offset in zip(("a", "c"), bad, strict=True):
        await log.encoded(OLD, name, offset, None, BAD)
    sets = await log.compare()
    assert (sets.missing, sets.old["captions"], sets.new["captions"]) == ([], 2, 2)


async def test_what_the_new_space_refused_is_missing_though_it_was_overwritten_since() -> None:
    log = Log()
    for name in ("a", "b"):
        await log.encoded(OLD, name, await log.publish(name))
    await log.encoded(NEW, "a", 0, None, "encode_failed: no")
    await log.encoded(NEW, "b", 1)
    await log.encoded(NEW, "a", await log.publish("a"), None, "encode_failed: no")
    sets = await log.compare()
    assert sets.missing == [MissingItem("captions", "a", "encode_failed: no")]


async def test_the_last_transaction_counts_before_it_is_stable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kafka shows an encoder's committed offset a moment before the records beside it."""
    log = Log()
    for name in ("a", "b"):
        offset = await log.publish(name)
        await log.encoded(OLD, name, offset)
        await log.encoded(NEW, name, offset)
    ends = MemoryLogReader.stable_offsets

    async def behind(reader: MemoryLogReader) -> dict[TopicPartition, int]:
        unstable = NEW.embeddings("captions")
        return {at: end * (at.topic != unstable) for at, end in (await ends(reader)).items()}

    monkeypatch.setattr(MemoryLogReader, "stable_offsets", behind)
    sets = await log.compare()
    assert (sets.missing, sets.new["captions"]) == ([], 2)


async def test_a_transaction_that_stays_open_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    offset = await log.publish("a")
    await log.encoded(OLD, "a", offset)
    await log.encoded(NEW, "a", offset)

    async def ends(partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        open_ = NEW.embeddings("captions")
        return {at: len(log.log.records[at]) + (at.topic == open_) for at in partitions}

    monkeypatch.setattr(log.log, "end_offsets", ends)
    with pytest.raises(TidelensError, match=r"captions-0 was not read to its end within 0\.1 s"):
        await log.compare(encoded_wait_s=0.1)


@pytest.mark.parametrize(
    "before, now, expected",
    [
        ([["a", "b"]], [["b", "a"]], 1.0),
        ([["a", "b"]], [["a", "c"]], 0.5),
        ([["a", "b"]], [["a"]], 0.5),
        ([["a"], []], [["a"], ["x"]], 0.5),
        ([[]], [[]], None),
        ([], [], None),
    ],
)
def test_overlap(before: list[list[str]], now: list[list[str]], expected: float | None) -> None:
    assert overlap(before, now) == expected


@pytest.mark.parametrize(
    "found, right, expected",
    [
        ([["a", "b"]], [["a", "b"]], 1.0),
        ([["a", "x"], ["c"]], [["a", "b"], ["c"]], 0.75),
        ([["x"]], [[]], None),
    ],
)
def test_recall(found: list[list[str]], right: list[list[str]], expected: float | None) -> None:
    assert recall(found, right) == expected
