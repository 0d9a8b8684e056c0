"""The samples and the folder that `up` publishes, on the log in memory."""

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError
from PIL import Image
from structlog.testing import capture_logs

from contracts.errors import BrokerUnavailable
from contracts.events.content_event import Content, read_content
from contracts.events.record import OutRecord, RecordPosition
from contracts.settings import Settings
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names, Target
from tests.kits.waiting import turns, until
from tidelens.ingest import feeds
from tidelens.ingest.feeds import publish_folder, publish_samples, sample_items

pytestmark = pytest.mark.anyio

NAMES = Names("t.", "")
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0"


class AwayLog(MemoryEventLog):
    """A log whose broker is away for the first tries."""

    errors: Sequence[Exception] = ()

    async def publish(self, records: Sequence[OutRecord]) -> list[RecordPosition]:
        if self.errors:
            error, *self.errors = self.errors
            raise error
        return await super().publish(records)


@pytest.fixture
def log() -> AwayLog:
    return AwayLog({NAMES.content(target): 2 for target in TARGETS})


def published(log: MemoryEventLog, target: Target) -> list[Content]:
    """Return the events of a target, as an encoder reads them."""
    return [
        content
        for partition in (0, 1)
        for record in log.records[NAMES.content(target), partition]  # type: ignore[index]
        if (content := read_content(target, record)) is not None
    ]


@asynccontextmanager
async def running(feed: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(feed)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_samples_are_drawings_with_their_names_the_same_at_every_start() -> None:
    first = list(itertools.islice(sample_items(), 5))
    assert first == list(itertools.islice(sample_items(), 5))
    assert len({picture.id for picture, _ in first}) == 5
    for picture, caption in first:
        assert (picture.target, caption.target) == ("images", "captions")
        assert picture.id == picture.item == caption.id == caption.item
        assert caption.text == picture.metadata["name"]
        assert "OpenMoji" in picture.metadata["attribution"]
        assert "CC BY-SA 4.0" in picture.metadata["attribution"]
        assert Image.open(io.BytesIO(picture.image or b"")).size == (256, 256)


async def test_the_sample_stream_is_bounded_and_waits_for_the_broker(log: AwayLog) -> None:
    log.errors = [KafkaConnectionError("away"), BrokerUnavailable("still away")]
    with capture_logs() as lines:
        samples = publish_samples(log, NAMES, samples_max=3, every_s=0.01, again_s=0.01)
        async with running(samples) as feed:
            await until(lambda: len(published(log, "captions")) == 3)
            # The stream has ended, but `up` ends when one of its tasks does.
            await until(lambda: "sample stream ended" in [line["event"] for line in lines])
            await turns(200)
            assert not feed.done()
    pairs = await asyncio.to_thread(lambda: list(itertools.islice(sample_items(), 3)))
    wanted = itertools.chain.from_iterable(pairs)
    found = [content for target in TARGETS for content in published(log, target)]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)


async def test_what_appears_or_changes_in_a_folder_is_published(
    log: AwayLog, tmp_path: Path
) -> None:
    settings = Settings(inline_bytes_max=20)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.txt").write_text("a cat")
    (tmp_path / "empty.jpg").write_bytes(b"")
    async with running(publish_folder(log, NAMES, settings, tmp_path)) as feed:
        await until(lambda: len(published(log, "captions")) == 1)
        (tmp_path / "large.jpg").write_bytes(JPEG.ljust(21))
        (tmp_path / "small").write_bytes(JPEG)
        await until(lambda: len(published(log, "images")) == 2)
        (tmp_path / "cats" / "one.txt").write_text("a black cat")
        await until(lambda: len(published(log, "captions")) == 2)
        assert not feed.done()
    assert [(c.id, c.text, c.item) for c in published(log, "captions")] == [
        ("cats/one.txt", "a cat", "cats/one"),
        ("cats/one.txt", "a black cat", "cats/one"),
    ]
    pictures = {content.id: content for content in published(log, "images")}
    assert pictures["small"].image == JPEG
    assert pictures["large.jpg"].ref == (tmp_path / "large.jpg").as_uri()


async def test_a_file_that_cannot_be_published_does_not_keep_the_others_from_it(
    log: AwayLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Try a file that Kafka never takes and an unforeseen error: each once ended the feed."""
    whole = feeds._contents

    def contents(path: Path, *rest: Any) -> Any:
        if path.name == "b.txt":
            raise KeyError("unforeseen")
        return whole(path, *rest)

    async def publish(records: Sequence[OutRecord]) -> list[RecordPosition]:
        if records[0].key == b"a.txt":
            raise MessageSizeTooLargeError("The message is 20 bytes")
        return await MemoryEventLog.publish(log, records)

    monkeypatch.setattr(feeds, "_contents", contents)
    monkeypatch.setattr(log, "publish", publish)
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("a cat")
    with capture_logs() as lines:
        async with running(publish_folder(log, NAMES, Settings(), tmp_path)) as feed:
            await until(lambda: len(published(log, "captions")) == 1)
            assert not feed.done()
    refused = {line["file"][-5:]: line["reason"] for line in lines if line["event"][:3] == "not"}
    assert refused.keys() == {"a.txt", "b.txt"}
    assert "MessageSizeTooLarge" in refused["a.txt"]
    assert refused["b.txt"] == "KeyError('unforeseen')"


async def test_a_skipped_file_is_logged_once_for_each_reason(log: AwayLog, tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf", "c.svg"):
        (tmp_path / name).write_bytes(b"something else")
    (tmp_path / "next.jpg.part").write_bytes(JPEG)
    with capture_logs() as lines:
        async with running(publish_folder(log, NAMES, Settings(), tmp_path)):
            await until(lambda: any(line.get("reason") == ".svg" for line in lines))
            (tmp_path / "photo").write_bytes(JPEG)
            await until(lambda: len(published(log, "images")) == 1)
    assert [line["reason"] for line in lines if "first" in line] == [".pdf", ".svg"]
