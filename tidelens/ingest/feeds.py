"""The two sources that `up` publishes itself: OpenMoji samples, and a folder that it watches."""

import asyncio
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from contracts.errors import TidelensError
from contracts.events.content_event import Content, content_record
from contracts.ports.event_log import EventLog
from contracts.settings import ContentSettings
from contracts.topics import Names

if TYPE_CHECKING:
    from tidelens.ingest.content_files import RefusedContent
    from tidelens.ingest.file_types import SkippedFile
    from tidelens.ingest.publisher import PublishInput

log = structlog.get_logger(__name__)

_SAMPLES_MAX = 1_000
_AGAIN_S = 2.0
# A suffix can be anything.
_REASONS_LOGGED_MAX = 100
_ATTRIBUTION = "OpenMoji, CC BY-SA 4.0"


def sample_items(seed: int = 0, *, samples_max: int = _SAMPLES_MAX) -> Iterator[list[Content]]:
    """Yield pictures with their names, in a shuffled order that is the same at every start.

    At most `samples_max` pictures are drawn.
    """
    from training.data.openmoji import pictures, render_png

    shuffled = pictures()
    random.Random(seed).shuffle(shuffled)
    for picture in shuffled[:samples_max]:
        item = f"openmoji/{picture.hexcode}"
        metadata = {"name": picture.name, "attribution": _ATTRIBUTION}
        yield [
            Content(
                target="images",
                id=item,
                image=render_png(picture.svg),
                item=item,
                metadata=metadata,
            ),
            Content(target="captions", id=item, text=picture.name, item=item, metadata=metadata),
        ]


async def publish_samples(
    event_log: EventLog,
    names: Names,
    *,
    samples_max: int = _SAMPLES_MAX,
    every_s: float = 0.5,
    again_s: float = _AGAIN_S,
) -> None:
    """Publish a sample every `every_s` seconds, up to `samples_max` of them.

    While the broker is away, publishing is tried again every `again_s` seconds. After the last
    sample this waits until it is cancelled.
    """
    stream = sample_items(samples_max=samples_max)
    published = 0
    while (pair := await asyncio.to_thread(next, stream, None)) is not None:
        await _publish(event_log, names, pair, again_s=again_s)
        published += 1
        await asyncio.sleep(every_s)
    log.info("sample stream ended", pictures=published)
    await asyncio.Event().wait()


async def publish_folder(
    event_log: EventLog, names: Names, settings: ContentSettings, folder: Path
) -> None:
    """Publish each picture or caption that appears or changes under `folder`."""
    from tidelens.ingest.publisher import watch_folder

    unpublished = _UnpublishedLog()
    async for path in watch_folder(folder):
        # A file that cannot be published must not keep the others from it.
        try:
            for entry in await asyncio.to_thread(_contents, path, folder, settings):
                if isinstance(entry, Content):
                    await _publish(event_log, names, [entry])
                    log.info("published", item=entry.id, target=entry.target)
                else:
                    unpublished.write(path, entry)
        except (MessageSizeTooLargeError, TidelensError, OSError) as error:
            log.warning("not published", file=str(path), reason=str(error))
        except Exception as error:
            log.error("not published", file=str(path), reason=repr(error), exc_info=error)


class _UnpublishedLog:
    """The log of files that are not published: each refused one, and one for each skip reason."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    def write(self, path: Path, entry: "RefusedContent | SkippedFile") -> None:
        from tidelens.ingest.file_types import SkippedFile

        if not isinstance(entry, SkippedFile):
            log.warning("not published", file=str(path), reason=str(entry))
        elif entry.reason not in self._reasons and len(self._reasons) < _REASONS_LOGGED_MAX:
            self._reasons.add(entry.reason)
            log.warning("files like this one are left out", reason=entry.reason, first=str(path))


def _contents(path: Path, folder: Path, settings: ContentSettings) -> "list[PublishInput]":
    from tidelens.ingest.file_types import PublishSource
    from tidelens.ingest.publisher import content_events_of

    return list(content_events_of(PublishSource(path, folder, named=False), settings))


async def _publish(
    event_log: EventLog, names: Names, contents: list[Content], *, again_s: float = _AGAIN_S
) -> None:
    records = [content_record(names.content(content.target), content) for content in contents]
    for attempt in itertools.count():
        try:
            await event_log.publish(records)
            return
        except MessageSizeTooLargeError:
            raise  # trying again would never succeed
        except (KafkaError, TidelensError) as error:
            log.warning("publishing waits for the broker", error=str(error), attempt=attempt)
            await asyncio.sleep(again_s)
