"""Reading what the log holds now, on the log in memory."""

import asyncio

import pytest

from contracts.events.record import OutRecord, TopicPartition
from contracts.testing.event_log import MemoryEventLog
from streams.kafka.partition_scan import read_existing

pytestmark = pytest.mark.anyio

FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)


async def log_of(*counts: int) -> MemoryEventLog:
    log = MemoryEventLog({"t": len(counts)})
    for partition, count in enumerate(counts):
        keys = [b"%d" % n for n in range(count)]
        await log.publish([OutRecord("t", key, b"", partition=partition) for key in keys])
    return log


async def test_each_partition_is_read_in_order_from_where_it_is_asked() -> None:
    log = await log_of(1_200, 3)
    found = [one async for one in read_existing(log, {FIRST: None, SECOND: 2})]
    assert [one.offset for one in found if one.partition == 0] == list(range(1_200))
    assert [one.offset for one in found if one.partition == 1] == [2]


async def test_who_goes_on_writing_does_not_keep_a_reader() -> None:
    log, found = await log_of(3), 0
    async with asyncio.timeout(30):
        async for _ in read_existing(log, {FIRST: None}):
            found += 1
            await log.publish([OutRecord("t", b"more", b"", partition=0)])
    assert found == 3


async def test_nothing_is_read_of_an_empty_partition() -> None:
    async with asyncio.timeout(30):
        assert [one async for one in read_existing(await log_of(0), {FIRST: None})] == []
