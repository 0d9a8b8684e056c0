"""Closing aiokafka's clients whole, whatever they are in the middle of.

A consumer's or producer's `stop()` marks itself closed first, then ends its tasks one by one, and
closes the sockets last (aiokafka 0.14). Cut short, by a cancellation or by a time limit, it leaves
sockets open and heartbeats running that keep the partitions of a member nobody reads; a second
`stop()` does nothing. Therefore a closing here is never cancelled, it is bounded, and what a late
`stop()` left is closed piece by piece.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from contracts.errors import TidelensError

CLOSE_S = 2.0


async def close(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop it, with whatever it has open. Errors go with it; a cancellation waits until then."""
    await to_its_end(_close(client))


async def close_client(client: AIOKafkaClient | AIOKafkaAdminClient) -> None:
    """The same for a plain client and for an admin client."""
    await to_its_end(quietly(client.close()))


async def to_its_end(closing: Coroutine[object, object, object]) -> None:
    """Run it whole; a cancellation that comes meanwhile goes on afterwards."""
    task = asyncio.create_task(closing)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def quietly(closing: Awaitable[object]) -> bool:
    """Whether it closed in time. What is closed here is being thrown away, errors with it."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await closing
    except asyncio.CancelledError:
        # aiokafka lets the cancellation of its own tasks out; ours must go on.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return False
    except (KafkaError, OSError, AssertionError, TimeoutError, TidelensError):
        return False
    return True


async def _close(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    if not await quietly(client.stop()):
        rest = _of_producer if isinstance(client, AIOKafkaProducer) else _of_consumer
        for piece in rest(client):
            await quietly(piece)


def _of_producer(producer: AIOKafkaProducer) -> Iterator[Awaitable[object]]:
    """What `stop()` would have gone on to after flushing, which a fenced producer may never do."""
    if producer._sender is not None:
        yield producer._sender.close()
    yield producer.client.close()


def _of_consumer(consumer: AIOKafkaConsumer) -> Iterator[Awaitable[object]]:
    """What `stop()` would have gone on to after its coordinator's task, which waits for a group."""
    coordinator = consumer._coordinator
    if coordinator is not None and consumer._group_id is not None:
        yield coordinator._stop_heartbeat_task()
        yield coordinator._stop_commit_offsets_refresh_task()
        yield coordinator._maybe_leave_group()
    if consumer._fetcher is not None:
        yield consumer._fetcher.close()
    yield consumer._client.close()
