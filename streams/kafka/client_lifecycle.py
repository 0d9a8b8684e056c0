"""Starting and closing aiokafka's clients completely, whatever they are doing.

A consumer's or producer's `stop()` marks itself closed first, then ends its tasks one by one, and
closes the sockets last (aiokafka 0.14). If a cancellation or a time limit cuts it short, it leaves
sockets open and heartbeats running that keep the partitions of a member nobody reads; a second
`stop()` does nothing. Therefore a closing here is never cancelled, it is bounded, and what a late
`stop()` left is closed piece by piece.

Tasks of a client may outlive it, such as those of a fenced producer whose sender died. A task that
is just connecting would open a socket after the last was closed, so the closing waits for it. A
`start()` that is cancelled forgets the connection that it asks for metadata, so it is not
cancelled.

Some tasks have no handle at all, above all the flush of a producer's `stop()`. Its sender fails no
batch when it is cancelled, so the flush would wait for ever, and be destroyed with the producer.
Therefore every task that aiokafka still runs for a closed client is found by the object that it
runs in, and ended, and what a closed producer still holds is failed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Coroutine, Iterator
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaConnectionError, KafkaError

from contracts.errors import TidelensError
from streams.kafka.rebootstrap import RebootstrappingClient

CLOSE_S = 2.0
# Bounds each step that a late `stop()` did not reach, since Kafka does not answer then.
_REST_S = 0.25
_POLL_S = 0.01
_UNDELIVERED = "the producer was closed before this was delivered"

_Client: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient | AIOKafkaClient


async def start_client(client: _Client) -> None:
    """Start a client, or leave nothing open.

    A start that is cancelled while it asks for metadata completes that request first.
    """
    plain = isinstance(client, AIOKafkaClient)
    starting = asyncio.create_task(client.bootstrap() if plain else client.start())
    try:
        await asyncio.shield(starting)
    except BaseException:
        await run_to_completion(_close_started(client, starting))
        raise


async def start_all(clients: Collection[AIOKafkaConsumer | AIOKafkaProducer]) -> None:
    """Start clients side by side, or leave nothing of any of them open."""
    starting = [asyncio.create_task(start_client(client)) for client in clients]
    try:
        await asyncio.gather(*starting)
    except BaseException:
        for task in starting:
            task.cancel()
        await run_to_completion(asyncio.wait(starting))
        for client in clients:
            await close_consumer_or_producer(client)  # one that was cancelled before it began, say
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


async def close_consumer_or_producer(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close a client with everything it has open, and drop its errors.

    A cancellation waits until everything is closed.
    """
    await run_to_completion(_close(client))


async def close_kafka_client(client: AIOKafkaClient | AIOKafkaAdminClient) -> None:
    """Close a plain client or an admin client in the same way."""
    await run_to_completion(_close_client(client))


async def run_to_completion(closing: Coroutine[object, object, object]) -> None:
    """Run a coroutine to its end; a cancellation that comes meanwhile is raised afterwards."""
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


async def close_quietly(closing: Awaitable[object], timeout_s: float | None = None) -> bool:
    """Return whether `closing` ended in time. Its errors are dropped with what it closes."""
    try:
        async with asyncio.timeout(CLOSE_S if timeout_s is None else timeout_s):
            await closing
    except asyncio.CancelledError:
        # aiokafka raises the cancellation of its own tasks; a cancellation of this task is raised.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return False
    except (KafkaError, OSError, AssertionError, TimeoutError, TidelensError):
        return False
    return True


async def _close(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    is_producer = isinstance(client, AIOKafkaProducer)
    if is_producer:
        retrieve_exceptions(client)
    if not await close_quietly(client.stop()):
        for piece in _of_producer(client) if is_producer else _of_consumer(client):
            await close_quietly(piece, _REST_S)
    await close_quietly(_disconnect(_connecting(client)))
    if is_producer:
        await close_quietly(_end_tasks(client._sender, client._message_accumulator))
        _fail_unsent(client)
    else:
        await close_quietly(_end_tasks(client._coordinator, client._fetcher))


async def _close_client(client: AIOKafkaClient | AIOKafkaAdminClient) -> None:
    await close_quietly(client.close())
    await close_quietly(_disconnect(_connecting(client)))


def _connecting(client: _Client) -> AIOKafkaClient:
    """Return the part of a client that holds its connections."""
    if isinstance(client, AIOKafkaClient):
        return client
    return client.client if isinstance(client, AIOKafkaProducer) else client._client


async def _disconnect(client: AIOKafkaClient) -> None:
    """Close what was opened while the client closed, and prevent new connections."""
    # Without a known broker nobody gets as far as the lock; who did already comes before us.
    client.cluster = ClusterMetadata()
    if isinstance(client, RebootstrappingClient):
        await client.until_connected()
    async with client._get_conn_lock:
        await client.close()


def _fail_unsent(producer: AIOKafkaProducer) -> None:
    retrieve_exceptions(producer)
    accumulator = producer._message_accumulator
    # aiokafka takes a batch out of that set once it fails, even one that waits to be sent again.
    accumulator._pending_batches.update(*accumulator._batches.values())
    accumulator.fail_all(KafkaConnectionError(_UNDELIVERED))


async def _end_tasks(*parts: object) -> None:
    """End the tasks that still run in these parts of a client, which reach no broker any more."""
    left = [task for task in asyncio.all_tasks() if _runs_in(task, parts)]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _runs_in(task: asyncio.Task[Any], parts: Collection[object]) -> bool:
    frame = getattr(task.get_coro(), "cr_frame", None)
    owner = frame.f_locals.get("self") if frame is not None else None
    return owner is not None and any(owner is part for part in parts)


def retrieve_exceptions(producer: AIOKafkaProducer) -> None:
    """Retrieve the errors of futures that aiokafka 0.14 fails itself and may give to nobody.

    These futures are the end of a transaction before which `commit` gave up, the wait for each
    batch that was never sent, and each record whose sender was cancelled. asyncio would log their
    errors as never retrieved.
    """
    if producer._txn_manager is not None:
        retrieve_exception_of(producer._txn_manager.wait_for_transaction_end())
    accumulator = producer._message_accumulator
    for batches in (*accumulator._batches.values(), accumulator._pending_batches):
        for batch in batches:
            retrieve_exception_of(batch._drain_waiter)
            retrieve_exception_of(batch.future)
            for record, _ in batch._msg_futures:
                retrieve_exception_of(record)


def retrieve_exception_of(future: asyncio.Future[Any] | None) -> None:
    """Retrieve the error of a future, in case nobody else does."""
    if future is not None:
        future.add_done_callback(_seen)


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _of_producer(producer: AIOKafkaProducer) -> Iterator[Awaitable[object]]:
    """List what `stop()` would have ended after flushing, which a fenced producer may never do."""
    if producer._sender is not None:
        yield producer._sender.close()
    yield producer.client.close()


def _of_consumer(consumer: AIOKafkaConsumer) -> Iterator[Awaitable[object]]:
    """List what `stop()` would have ended after its coordinator's task, which waits for a group."""
    coordinator = consumer._coordinator
    if coordinator is not None and consumer._group_id is not None:
        yield coordinator._stop_heartbeat_task()
        yield coordinator._stop_commit_offsets_refresh_task()
        yield coordinator._maybe_leave_group()
    if consumer._fetcher is not None:
        yield consumer._fetcher.close()
    yield consumer._client.close()
