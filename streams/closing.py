"""Starting and closing aiokafka's clients whole, whatever they are in the middle of.

A consumer's or producer's `stop()` marks itself closed first, then ends its tasks one by one, and
closes the sockets last (aiokafka 0.14). Cut short, by a cancellation or by a time limit, it leaves
sockets open and heartbeats running that keep the partitions of a member nobody reads; a second
`stop()` does nothing. Therefore a closing here is never cancelled, it is bounded, and what a late
`stop()` left is closed piece by piece.

Tasks of a client may outlive it: those of a fenced producer whose sender died, say. One that is
just connecting would open a socket after the last was closed, so the closing waits for it. And a
`start()` that is cancelled forgets the connection it asks for metadata, so it is not cancelled.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Coroutine, Iterator
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError

from contracts.errors import TidelensError

CLOSE_S = 2.0
_POLL_S = 0.01

_Client: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient | AIOKafkaClient


async def start_client(client: _Client) -> None:
    """Start it, or leave nothing open. Cancelled while it asks for metadata, it ends that first."""
    plain = isinstance(client, AIOKafkaClient)
    starting = asyncio.create_task(client.bootstrap() if plain else client.start())
    try:
        await asyncio.shield(starting)
    except BaseException:
        await to_its_end(_close_started(client, starting))
        raise


async def start_all(clients: Collection[AIOKafkaConsumer | AIOKafkaProducer]) -> None:
    """Start them side by side, or leave nothing of any of them open."""
    starting = [asyncio.create_task(start_client(client)) for client in clients]
    try:
        await asyncio.gather(*starting)
    except BaseException:
        for task in starting:
            task.cancel()
        await to_its_end(asyncio.wait(starting))
        for client in clients:
            await close(client)  # one that was cancelled before it began, say
        raise


async def _close_started(client: _Client, starting: asyncio.Task[None]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            while not starting.done() and _connecting(client)._sync_task is None:
                await asyncio.wait([starting], timeout=_POLL_S)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    if isinstance(client, AIOKafkaConsumer | AIOKafkaProducer):
        await _close(client)
    else:
        await _close_client(client)


async def close(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop it, with whatever it has open. Errors go with it; a cancellation waits until then."""
    await to_its_end(_close(client))


async def close_client(client: AIOKafkaClient | AIOKafkaAdminClient) -> None:
    """The same for a plain client and for an admin client."""
    await to_its_end(_close_client(client))


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
    await quietly(_disconnect(_connecting(client)))


async def _close_client(client: AIOKafkaClient | AIOKafkaAdminClient) -> None:
    await quietly(client.close())
    await quietly(_disconnect(_connecting(client)))


def _connecting(client: _Client) -> AIOKafkaClient:
    """What holds its connections."""
    if isinstance(client, AIOKafkaClient):
        return client
    return client.client if isinstance(client, AIOKafkaProducer) else client._client


async def _disconnect(client: AIOKafkaClient) -> None:
    """Close what was opened while it closed, and let nobody open anything more."""
    # Without a known broker nobody gets as far as the lock; who did already comes before us.
    client.cluster = ClusterMetadata()
    async with client._get_conn_lock:
        await client.close()


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
