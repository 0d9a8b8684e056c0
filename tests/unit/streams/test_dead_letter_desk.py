"""Letters listed, tried again and discarded, on the log in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from consumers.encode_job import RecordChecks, output_records, parse_record
from contracts.errors import RejectedRecord, UsageError
from contracts.events.content_event import content_record, delete_record
from contracts.events.dead_letter import (
    LetterId,
    dead_letter_record,
    mark_record,
    original_headers,
    read_letter,
    read_mark,
)
from contracts.events.record import OutRecord, Record, RecordPosition, TopicPartition
from contracts.testing.clock import ManualClock
from contracts.testing.encoder import HashEncoder
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names
from streams.maintainer.faust_app import counted_reason
from streams.registry.dead_letter_desk import DeadLetterDesk
from tests.kits.kafka import MURMUR2, caption
from tidelens.cli import dead_letters as dead_letters_command

pytestmark = pytest.mark.anyio

NAMES = Names("t.", "any")
CAPTIONS = NAMES.content("captions")
PARTITIONS = 2


class Desk:
    """A log with content, letters written as an encoder writes them, and who sees to them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        topics = {NAMES.content(target): PARTITIONS for target in TARGETS}
        self.log = MemoryEventLog({**topics, NAMES.dead_letters: PARTITIONS}, clock=self.clock)
        self.letters = DeadLetterDesk(self.log, NAMES, MURMUR2)

    async def publish(self, *records: OutRecord) -> list[RecordPosition]:
        self.clock.advance(1)
        return await self.log.publish(records)

    async def content(self, item_id: str, text: str, partition: int | None = None) -> Record:
        """Publish one record that is refused, with headers of its own."""
        out = content_record(CAPTIONS, caption(item_id, text))
        out = OutRecord(out.topic, out.key, out.value, [*out.headers, ("mine", b"\xff")], partition)
        [position] = await self.publish(out)
        record = await self.log.read(position)
        assert record is not None
        return record

    async def refuse(
        self,
        record: Record,
        reason: str = "invalid_json",
        *,
        space: str = "a-v1",
        bytes_max: int = 10_000,
    ) -> LetterId:
        letter = dead_letter_record(
            NAMES.dead_letters,
            record,
            RejectedRecord(reason, f"value: {reason}"),
            stage="encode",
            space=space,
            attempts=2,
            bytes_max=bytes_max,
        )
        [position] = await self.publish(letter)
        return LetterId(position.partition, position.offset)

    async def retry(self, *ids: LetterId) -> list[tuple[str | None, str | None]]:
        known = {letter.id: one for one in await self.letters.all() for letter in one.letters}
        chosen = [known[letter_id] for letter_id in ids]
        return [(one.outcome, one.refusal) for one in await self.letters.retry(chosen)]

    async def outcomes(self) -> dict[str, str | None]:
        return {str(one.letter.id): one.outcome for one in await self.letters.all()}

    def texts(self, partition: int | None = None) -> list[tuple[bytes | None, bytes | None]]:
        """Return keys and values of all captions, or of those in one partition."""
        numbers = range(PARTITIONS) if partition is None else [partition]
        return [
            (record.key, record.value)
            for number in numbers
            for record in self.log.records[TopicPartition(CAPTIONS, number)]
        ]


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_letter_tells_all_that_is_known_of_it(desk: Desk) -> None:
    record = await desk.content("a", "one")
    letter_id = await desk.refuse(record)
    [one] = await desk.letters.all()
    letter = one.letter
    assert (letter.id, one.outcome) == (letter_id, None)
    assert (letter.reason, letter.message) == ("invalid_json", "value: invalid_json")
    assert (letter.stage, letter.attempts, letter.truncated) == ("encode", 2, None)
    assert letter.source == RecordPosition(CAPTIONS, record.partition, record.offset)
    assert (letter.key, letter.value_bytes) == (b"a", len(record.value or b""))
    assert letter.written_ms == int(desk.clock.now() * 1000)


async def test_a_retry_publishes_the_original_once_more_and_untouched(desk: Desk) -> None:
    record = await desk.content("a", "one")
    letter_id = await desk.refuse(record)
    assert await desk.retry(letter_id) == [("retried", None)]
    again = desk.log.records[TopicPartition(CAPTIONS, record.partition)][-1]
    assert again.offset == record.offset + 1
    assert (again.key, again.value, again.headers) == (record.key, record.value, record.headers)
    assert await desk.outcomes() == {str(letter_id): "retried"}


async def test_what_failed_again_is_another_letter(desk: Desk) -> None:
    first = await desk.refuse(await desk.content("a", "one"))
    await desk.retry(first)
    partition = MURMUR2(b"a", PARTITIONS)
    again = desk.log.records[TopicPartition(CAPTIONS, partition)][-1]
    second = await desk.refuse(again, "invalid_content")
    assert await desk.outcomes() == {str(first): "retried", str(second): None}
    # The first would bring nothing back that the second has not.
    assert await desk.retry(first, second) == [("superseded", None), ("retried", None)]


@pytest.mark.parametrize("newer", ["an update", "a delete"])
async def test_what_was_replaced_meanwhile_is_not_brought_back(desk: Desk, newer: str) -> None:
    letter_id = await desk.refuse(await desk.content("a", "one"))
    if newer == "a delete":
        await desk.publish(delete_record(CAPTIONS, "a"))
    else:
        await desk.content("a", "two")
    before = desk.texts()
    assert await desk.retry(letter_id) == [("superseded", None)]
    assert desk.texts() == before
    assert await desk.outcomes() == {str(letter_id): "superseded"}


async def test_others_records_replace_nothing(desk: Desk) -> None:
    letters = [await desk.refuse(await desk.content(name, "one")) for name in "abcdef"]
    await desk.content("g", "one")
    await desk.content("c", "two")
    outcomes = await desk.retry(*letters)
    assert outcomes == [("superseded" if name == "c" else "retried", None) for name in "abcdef"]


async def test_one_from_the_wrong_partition_goes_where_it_belongs(desk: Desk) -> None:
    home = MURMUR2(b"a", PARTITIONS)
    record = await desk.content("a", "one", partition=1 - home)
    letter_id = await desk.refuse(record, "wrong_partition")
    assert await desk.retry(letter_id) == [("retried", None)]
    assert desk.texts(home) == [(b"a", record.value)]


async def test_in_its_own_partition_a_newer_one_counts_and_an_older_one_does_not(
    desk: Desk,
) -> None:
    home = MURMUR2(b"a", PARTITIONS)
    await desk.content("a", "old")
    stray = await desk.refuse(await desk.content("a", "one", partition=1 - home), "wrong_partition")
    assert await desk.retry(stray) == [("retried", None)]
    later = await desk.refuse(await desk.content("a", "two", partition=1 - home), "wrong_partition")
    await desk.content("a", "new")
    assert await desk.retry(later) == [("superseded", None)]


async def test_of_two_strays_of_an_item_only_the_later_is_published(desk: Desk) -> None:
    home = MURMUR2(b"a", PARTITIONS)
    strays = []
    for text in ("one", "two"):
        record = await desk.content("a", text, partition=1 - home)
        strays.append(await desk.refuse(record, "wrong_partition"))
    assert await desk.retry(*strays) == [("superseded", None), ("retried", None)]
    [(_, value)] = desk.texts(home)
    assert b"two" in (value or b"")


async def test_a_truncated_letter_takes_its_original_from_the_log(desk: Desk) -> None:
    record = await desk.content("a", "long " * 1000)
    letter_id = await desk.refuse(record, bytes_max=3_000)
    [one] = await desk.letters.all()
    assert one.letter.truncated is not None
    assert await desk.retry(letter_id) == [("retried", None)]
    again = desk.log.records[TopicPartition(CAPTIONS, record.partition)][-1]
    assert (again.value, again.headers) == (record.value, record.headers)


async def test_a_truncated_letter_whose_original_is_gone_is_refused(desk: Desk) -> None:
    record = await desk.content("a", "long " * 1000)
    letter_id = await desk.refuse(record, bytes_max=3_000)
    # The topic looks as if it was created again, with another publisher's record there.
    log = desk.log.records[TopicPartition(CAPTIONS, record.partition)]
    log[record.offset] = Record(CAPTIONS, record.partition, record.offset, 0, b"other", b"{}")
    assert await desk.retry(letter_id) == [(None, "truncated")]
    assert await desk.outcomes() == {str(letter_id): None}


async def test_what_no_producer_published_cannot_be_published_again(desk: Desk) -> None:
    embedding = Record(NAMES.embeddings("captions"), 0, 3, 0, b"a", b"torn")
    letter_id = await desk.refuse(embedding, "invalid_embedding")
    assert await desk.retry(letter_id) == [(None, "not_content")]
    assert desk.texts() == []


async def test_discarded_letters_stay_in_the_log(desk: Desk) -> None:
    first = await desk.refuse(await desk.content("a", "one"))
    second = await desk.refuse(await desk.content("b", "one"))
    [one] = [one for one in await desk.letters.all() if one.letter.id == first]
    await desk.letters.discard([one])
    assert await desk.outcomes() == {str(first): "discarded", str(second): None}
    assert (await desk.letters.original(first)).key == b"a"
    # A change of mind.
    assert await desk.retry(first) == [("retried", None)]
    assert (await desk.outcomes())[str(first)] == "retried"


async def test_a_mark_is_no_letter_and_nothing_is_none(desk: Desk) -> None:
    letter_id = await desk.refuse(await desk.content("a", "one"))
    await desk.letters.discard(await desk.letters.all())
    for offset in (letter_id.offset + 1, letter_id.offset + 2):
        missing = LetterId(letter_id.partition, offset)
        with pytest.raises(UsageError, match=f"none at {missing}"):
            await desk.letters.original(missing)


async def test_what_others_write_into_the_topic_is_not_listed(desk: Desk) -> None:
    await desk.publish(
        OutRecord(NAMES.dead_letters, b"a", b"hello", [("theirs", b"1")]),
        OutRecord(NAMES.dead_letters, b"a", None, [("dead_letter_of", b"0:0")]),
        OutRecord(NAMES.dead_letters, b"a", None, [("dead_letter_outcome", b"retried")]),
    )
    assert await desk.letters.all() == []


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:1", "1:b", "1:2:3", "-1:2", "1:-2"])
def test_a_letters_name_has_one_form(text: str) -> None:
    with pytest.raises(ValueError, match="want PARTITION:OFFSET"):
        LetterId.parse(text)


# Copies: letters of one record by several spaces


async def test_a_rebuild_writes_copies_which_are_one_entry(desk: Desk) -> None:
    records = [await desk.content(name, "one") for name in "ab"]
    old = [await desk.refuse(record) for record in records]
    new = [await desk.refuse(record, space="b-v1") for record in records]
    listed = await desk.letters.all()
    assert sorted(one.letter.id for one in listed) == sorted(old)
    assert all(one.spaces == ["a-v1", "b-v1"] for one in listed)
    found = {letter.id for one in listed for letter in one.letters}
    assert found == {*old, *new}


async def test_a_retry_of_a_copy_publishes_once_and_marks_all(desk: Desk) -> None:
    record = await desk.content("a", "one")
    first, second = await desk.refuse(record), await desk.refuse(record, space="b-v1")
    assert await desk.retry(second) == [("retried", None)]
    assert [value for _, value in desk.texts()] == [record.value] * 2
    marks = await marked(desk)
    assert marks == {first: "retried", second: "retried"}
    assert await desk.outcomes() == {str(first): "retried"}


async def marked(desk: Desk) -> dict[LetterId, str]:
    marks = [
        read_mark(record)
        for number in range(PARTITIONS)
        for record in desk.log.records[TopicPartition(NAMES.dead_letters, number)]
    ]
    return {mark.letter: mark.outcome for mark in marks if mark is not None}


@pytest.mark.parametrize("outcome", ["retried", "discarded"])
async def test_what_was_seen_to_does_not_come_back_with_a_rebuild(desk: Desk, outcome: str) -> None:
    record = await desk.content("a", "one")
    first = await desk.refuse(record)
    if outcome == "retried":
        await desk.retry(first)
    else:
        await desk.letters.discard(await desk.letters.all())
    second = await desk.refuse(record, space="b-v1")
    [one] = await desk.letters.all()
    assert ([letter.id for letter in one.letters], one.outcome) == ([first, second], outcome)
    # The operator decides otherwise, and names the copy.
    await desk.letters.discard([one])
    assert await desk.outcomes() == {str(first): "discarded"}


async def test_a_topic_made_again_has_letters_of_its_own(desk: Desk) -> None:
    """The topic was made again, with a record of other bytes at the same offset."""
    record = await desk.content("a", "one")
    first = await desk.refuse(record)
    await desk.letters.discard(await desk.letters.all())
    other = Record(CAPTIONS, record.partition, record.offset, 0, b"a", b"mended, yet bad")
    second = await desk.refuse(other)
    assert await desk.outcomes() == {str(first): "discarded", str(second): None}


async def test_letters_of_two_records_are_not_copies(desk: Desk) -> None:
    letters = [await desk.refuse(await desk.content("a", "one")) for _ in range(2)]
    assert len(await desk.letters.all()) == len(letters)


async def test_letters_of_an_older_version_name_no_space_and_fold_all_the_same(desk: Desk) -> None:
    record = await desk.content("a", "one")
    letter_id = await desk.refuse(record)
    log = desk.log.records[TopicPartition(NAMES.dead_letters, letter_id.partition)]
    old = log[letter_id.offset]
    headers = [(name, value) for name, value in old.headers if name != "dead_letter_space"]
    log[letter_id.offset] = replace(old, headers=headers)
    [one] = await desk.letters.all()
    assert (one.letter.space, one.spaces) == (None, [])
    await desk.refuse(record, space="b-v1")
    [one] = await desk.letters.all()
    assert (len(one.letters), one.spaces) == (2, ["b-v1"])


async def test_a_bad_record_with_the_headers_of_a_mark_is_a_letter(desk: Desk) -> None:
    """It would take another letter out of the list, and itself."""
    hidden = await desk.refuse(await desk.content("a", "one"))
    letter = (await desk.letters.all())[0].letter
    forged = mark_record(NAMES.dead_letters, letter, "discarded")
    record = Record(CAPTIONS, 0, 7, 0, b"a", b"{", [*forged.headers, ("dead_letter_space", b"!")])
    second = await desk.refuse(record)
    assert await desk.outcomes() == {str(hidden): None, str(second): None}
    original = await desk.letters.original(second)
    assert read_letter(original).space == "a-v1"  # type: ignore[union-attr]
    assert original_headers(original) == [*forged.headers]


def test_both_spaces_write_the_letter_of_a_bad_record() -> None:
    """Write letters as encoders do, each in its own transaction."""
    record = Record(CAPTIONS, MURMUR2(b"a", PARTITIONS), 5, 0, b"a", b"{")
    found = []
    for encoder in (HashEncoder(), HashEncoder(48, "hash-48")):
        names = Names(NAMES.prefix, encoder.space.name)
        intake = RecordChecks(names, {CAPTIONS: PARTITIONS}, MURMUR2, 10_000)
        letter, tombstone = output_records(
            parse_record(record, intake), encoder.space, intake, "topic-id"
        )
        assert tombstone.value is None
        seen = Record(letter.topic, 0, len(found), 0, letter.key, letter.value, letter.headers)
        read = read_letter(seen)
        assert read is not None
        found.append((read.space, read.source, read.digest))
    assert [space for space, *_ in found] == [HashEncoder().space.name, "hash-48"]
    assert found[0][1:] == found[1][1:]


@pytest.mark.parametrize(
    ("headers", "counted"),
    [
        ({"dead_letter_reason": b"invalid_json", "dead_letter_space": b"a-v1"}, "invalid_json"),
        ({"dead_letter_reason": "invalid_json", "dead_letter_space": "a-v1"}, "invalid_json"),
        ({"dead_letter_reason": b"invalid_json"}, "invalid_json"),
        ({"dead_letter_reason": b"invalid_json", "dead_letter_space": b"b-v1"}, None),
        ({"dead_letter_of": b"0:1", "dead_letter_outcome": b"retried"}, None),
        ({}, None),
    ],
)
def test_a_node_counts_the_letters_of_its_space_once(
    headers: dict[str, bytes | str], counted: str | None
) -> None:
    assert counted_reason(headers, "a-v1") == counted


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run `tidelens dead-letters` on three letters of two spaces, one of them about a stray."""

    @asynccontextmanager
    async def opened(**_: object) -> AsyncIterator[DeadLetterDesk]:
        desk = Desk()
        record = await desk.content("a", "one")
        await desk.refuse(record)
        await desk.refuse(record, "encode_failed", space="b-v1")
        await desk.refuse(await desk.content("b", "one", partition=0), "wrong_partition")
        yield desk.letters

    monkeypatch.setattr(dead_letters_command, "_opened", opened)

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(dead_letters_command.dead_letters, list(arguments))
        assert result.exit_code == 0, result.output
        return orjson.loads(result.stdout) if "--json" in arguments else result

    return run


def test_a_line_names_the_spaces_and_what_else_was_said(command: Callable[..., Any]) -> None:
    result = command("list")
    [line] = [line for line in result.stdout.splitlines() if "'a'" in line]
    assert line.endswith(
        "'a'  a-v1, b-v1  invalid_json: value: invalid_json; "
        "b-v1: encode_failed: value: encode_failed"
    )
    assert "2 letters: 1 " in result.stderr
    wire = {one["id"]: one for one in command("list", "--json")}
    assert wire["a"]["spaces"] == ["a-v1", "b-v1"]
    assert [one["reason"] for one in wire["a"]["letters"]] == ["invalid_json", "encode_failed"]
    assert wire["a"]["letter"] == wire["a"]["letters"][0]["letter"]
    assert wire["b"]["spaces"] == ["a-v1"]


def test_a_copy_is_chosen_by_its_own_reason_too(command: Callable[..., Any]) -> None:
    [one] = command("list", "--json", "--reason", "encode_failed")
    copy = one["letters"][1]["letter"]
    assert command("show", copy, "--json")["space"] == "b-v1"
    [done] = command("retry", copy, one["letter"], "--json")
    assert done["outcome"] == "retried"
    assert done["letters"] == [one["letter"], copy]
    assert command("discard", "--all", "--json") == {"discarded": 2}
