"""Letters listed, tried again and discarded, on the log in memory."""

import pytest

from contracts.dead_letters import LetterId, dead_letter_record, read_letter
from contracts.errors import RejectedRecord, UsageError
from contracts.events import content_record, delete_record
from contracts.memory import ManualClock, MemoryLog
from contracts.records import OutRecord, Record, RecordPosition, TopicPartition
from contracts.topics import TARGETS, Names
from streams.dead_letters import DeadLetters
from tests.kit import MURMUR2, caption

pytestmark = pytest.mark.anyio

NAMES = Names("t.", "any")
CAPTIONS = NAMES.content("captions")
PARTITIONS = 2


class Desk:
    """A log with content, letters written as an encoder writes them, and who sees to them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        topics = {NAMES.content(target): PARTITIONS for target in TARGETS}
        self.log = MemoryLog({**topics, NAMES.dead_letters: PARTITIONS}, clock=self.clock)
        self.letters = DeadLetters(self.log, NAMES, MURMUR2)

    async def publish(self, *records: OutRecord) -> list[RecordPosition]:
        self.clock.advance(1)
        return await self.log.publish(records)

    async def content(self, item_id: str, text: str, partition: int | None = None) -> Record:
        """One record that was refused, with headers of its own."""
        out = content_record(CAPTIONS, caption(item_id, text))
        out = OutRecord(out.topic, out.key, out.value, [*out.headers, ("mine", b"\xff")], partition)
        [position] = await self.publish(out)
        record = await self.log.read(position)
        assert record is not None
        return record

    async def refuse(
        self, record: Record, reason: str = "invalid_json", *, bytes_max: int = 10_000
    ) -> LetterId:
        letter = dead_letter_record(
            NAMES.dead_letters,
            record,
            RejectedRecord(reason, f"value: {reason}"),
            stage="encode",
            attempts=2,
            bytes_max=bytes_max,
        )
        [position] = await self.publish(letter)
        return LetterId(position.partition, position.offset)

    async def retry(self, *ids: LetterId) -> list[tuple[str | None, str | None]]:
        letters = []
        for letter_id in ids:
            letter = read_letter(await self.letters.original(letter_id))
            assert letter is not None
            letters.append(letter)
        return [(one.outcome, one.refusal) for one in await self.letters.retry(letters)]

    async def outcomes(self) -> dict[str, str | None]:
        return {str(one.letter.id): one.outcome for one in await self.letters.all()}

    def texts(self, partition: int | None = None) -> list[tuple[bytes | None, bytes | None]]:
        """Keys and values of all captions, or of those in one partition."""
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
    # As if the topic had been made anew, with somebody else's record there.
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
    [one] = [one.letter for one in await desk.letters.all() if one.letter.id == first]
    await desk.letters.discard([one])
    assert await desk.outcomes() == {str(first): "discarded", str(second): None}
    assert (await desk.letters.original(first)).key == b"a"
    # A change of mind.
    assert await desk.retry(first) == [("retried", None)]
    assert (await desk.outcomes())[str(first)] == "retried"


async def test_a_mark_is_no_letter_and_nothing_is_none(desk: Desk) -> None:
    letter_id = await desk.refuse(await desk.content("a", "one"))
    await desk.letters.discard([one.letter for one in await desk.letters.all()])
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
