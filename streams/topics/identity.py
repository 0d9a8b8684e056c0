"""The identity of topics, which only the id shows, not the name.

A topic that was deleted and created again answers fetches at the old offsets as if nothing had
happened. So every process that keeps offsets asks for the ids now and then, and an encoder before
each commit.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Collection, Mapping
from typing import TypeVar

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from contracts.errors import BrokerUnavailable, LogChanged, TidelensError, TopicMismatch
from contracts.ports.event_log import EventLog
from streams.kafka.connection import KafkaConnection
from streams.topics.metadata import TopicDescription, describe_topics

log = structlog.get_logger(__name__)

T = TypeVar("T")

# A request for metadata takes a millisecond; a caller goes on without it after this time.
ANSWER_S = 3.0
EVERY_S = 5.0

TopicsById = Mapping[str, TopicDescription]

# The id of a topic that was not there.
ABSENT = ""


class TopicIdClient:
    """A client that asks the broker for topics, one request at a time for all callers.

    An answer counts for a caller only if it was asked for after the call: callers that come while a
    request is under way share the next one.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._clients: contextlib.AsyncExitStack | None = None
        self._client: AIOKafkaClient | None = None
        self._running: asyncio.Task[TopicsById] | None = None
        self._next: asyncio.Task[TopicsById] | None = None
        self._wanted: set[str] = set()
        self._closed = False

    async def existing_topics(self, topics: Collection[str]) -> TopicsById:
        """Return those of `topics` that exist.

        Raises BrokerUnavailable, and TopicMismatch for a topic that we may not describe.
        """
        if self._closed:
            raise BrokerUnavailable("the client that asks for topics is closed")
        self._wanted |= set(topics)
        if self._next is None:
            self._next = asyncio.create_task(self._look(self._running), name="topic look")
            self._next.add_done_callback(_seen)
        # Shared: one caller that gives up must not take the answer from the others.
        answer = await asyncio.shield(self._next)
        return {topic: answer[topic] for topic in topics if topic in answer}

    async def close(self) -> None:
        self._closed = True
        under_way = [task for task in (self._running, self._next) if task is not None]
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        await self._close_client()

    async def _look(self, before: "asyncio.Task[TopicsById] | None") -> TopicsById:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        wanted, self._wanted = self._wanted, set()
        try:
            async with self._connection.errors_translated(), asyncio.timeout(ANSWER_S):
                if self._client is None:
                    await self._open_client()
                assert self._client is not None
                return await describe_topics(self._client, wanted, absent_ok=True)
        except (KafkaError, TidelensError, OSError, TimeoutError):
            # Make a fresh client next time: this one may hold a broker that is gone for good.
            await self._close_client()
            raise

    async def _open_client(self) -> None:
        async with contextlib.AsyncExitStack() as opening:
            self._client = await opening.enter_async_context(self._connection.client())
            self._clients = opening.pop_all()

    async def _close_client(self) -> None:
        clients, self._clients, self._client = self._clients, None, None
        if clients is not None:
            with contextlib.suppress(KafkaError, TidelensError, OSError, TimeoutError):
                await clients.aclose()


class TopicIdentityCheck:
    """The topics that one session, reader or index was built on.

    If the broker is away, the question is asked later: nothing waits for it, and an offset that was
    committed meanwhile carries the ids under which it was written.
    """

    def __init__(self, topic_client: TopicIdClient, ids: Mapping[str, str]) -> None:
        self._topic_client = topic_client
        self.ids = dict(ids)
        self._changed: str | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = time.monotonic()

    def check_now(self) -> "asyncio.Task[None]":
        """Begin to ask; the task ends without an error, whatever the result."""
        self._asked_at = time.monotonic()
        return asyncio.create_task(self._look(), name="topic ids")

    def require(self) -> None:
        """Raise LogChanged once another topic was seen; begin to ask if the last look is old."""
        if self._changed is not None:
            raise LogChanged(self._changed)
        under_way = self._asking is not None and not self._asking.done()
        if not under_way and time.monotonic() - self._asked_at > EVERY_S:
            self._asking = self.check_now()

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _look(self) -> None:
        found = await _answer(self._topic_client.existing_topics(self.ids))
        if found is not None:
            ids = {topic: described.id for topic, described in found.items()}
            self._changed = self._changed or describe_change(self.ids, ids)


class PeriodicIdentityCheck:
    """A check for a reader that uses the EventLog port and goes on if it cannot ask."""

    def __init__(self, event_log: EventLog, ids: Mapping[str, str]) -> None:
        self._log = event_log
        self._ids = dict(ids)
        self._asked_at = time.monotonic()

    async def require(self, *, every_s: float = EVERY_S) -> None:
        """Raise LogChanged where a topic was created again; ask if the last look is older."""
        if time.monotonic() - self._asked_at < every_s:
            return
        self._asked_at = time.monotonic()
        found = await _answer(self._log.topic_ids(self._ids))
        if found is not None and (change := describe_change(self._ids, found)):
            raise LogChanged(change)


async def _answer(asked: Awaitable[T]) -> T | None:
    """Return what the broker answers, or None where it does not: the next look asks it again."""
    try:
        return await asked
    except TopicMismatch as error:
        log.warning("a topic that is read is gone", reason=str(error))
    except (KafkaError, TidelensError, OSError) as error:  # TimeoutError is an OSError
        log.debug("topic ids are not known now", error=repr(error))
    return None


def describe_change(ids: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """Return what happened to the first topic that changed, or None where all are the same.

    Both arguments have the ids of topics by name; a topic that does not exist has the id ABSENT in
    `ids`, and is missing from `found`.
    """
    for topic, topic_id in ids.items():
        now = found.get(topic, ABSENT)
        if now == topic_id:
            continue
        if topic_id == ABSENT:
            return f"topic {topic} was created"
        again = "" if now == ABSENT else " and created again"
        return f"topic {topic} was deleted{again}"
    return None


def _seen(task: "asyncio.Task[TopicsById]") -> None:
    """Retrieve the error, so that asyncio does not log it after every caller has given up."""
    if not task.cancelled():
        task.exception()
