"""Invariant 2 on the real broker: one owner, source order, exactly once, in any storm."""

import asyncio
import gc
import random
import signal
import time
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import PolicyViolationError

from contracts.errors import ConfigurationError, Fenced, RecordTooLarge
from contracts.events.content_event import EVENT_TYPES, content_record, delete_record
from contracts.events.embedding_record import embedding_record, encode_embedding, read_embedding
from contracts.events.record import OutRecord, Record, Source
from contracts.events.record import TopicPartition as Partition
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS
from streams.ownership.kafka_ownership import KafkaEncoderLog, KafkaOwnership
from streams.ownership.options import OwnershipOptions
from streams.ownership.session import OwnershipSession
from tests.kits.kafka import (
    RECORD_BYTES_MAX,
    Collection,
    caption,
    collection,
    expired,
    nothing_open,
    worker,
)
from tests.kits.roles import PATIENCE_S, Role, of, role

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

# What the processes of the role encode with, too.
ENCODER = HashEncoder()


def encoder_log(kit: Collection, **limits: float) -> KafkaEncoderLog:
    return KafkaEncoderLog(
        kit.connection,
        kit.names,
        record_bytes_max=RECORD_BYTES_MAX,
        **{"session_timeout_ms": 6_000, **limits},
    )


async def publish(kit: Collection, count: int, *, ids: int, start: int = 0) -> None:
    topic = kit.names.content("captions")
    records = [
        content_record(topic, caption(f"item-{n % ids}", f"caption number {n}"))
        for n in range(start, start + count)
    ]
    await kit.log.publish(records)


async def drained(kit: Collection, count: int, timeout_s: float = 60) -> list[tuple[int, int]]:
    """Wait until `count` embeddings stand; (partition, source offset) in log order."""
    topic = kit.names.embeddings("captions")
    async with asyncio.timeout(timeout_s):
        while True:
            found = await kit.read_all(topic)
            if sum(map(len, found.values())) >= count:
                return [
                    (partition, read_embedding(ENCODER.space, record).source.offset)
                    for partition, records in found.items()
                    for record in records
                ]
            await asyncio.sleep(0.2)


def assert_in_order_once(sources: list[tuple[int, int]], partitions: int) -> None:
    for partition in range(partitions):
        offsets = [offset for p, offset in sources if p == partition]
        assert offsets == sorted(set(offsets)), f"partition {partition}: order or repeats"


@asynccontextmanager
async def running_worker(kit: Collection, **limits: float) -> AsyncIterator[KafkaOwnership]:
    async with encoder_log(kit, **limits).join(kit.names.encoder_group) as ownership:
        running = asyncio.create_task(
            worker(ownership, kit.names, kit.partitions, encoder=ENCODER).run()
        )
        try:
            yield ownership
        finally:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


async def test_every_record_becomes_one_embedding_in_source_order(kafka) -> None:
    async with collection(kafka.bootstrap) as kit, running_worker(kit):
        await publish(kit, 500, ids=500)
        sources = await drained(kit, 500)
        assert len(sources) == 500
        assert_in_order_once(sources, kit.partitions)


async def test_an_encoder_that_waits_for_partitions_is_a_member_of_the_group(kafka) -> None:
    """Three encoders have one partition of each target: one of them owns none, and is ready too."""
    async with collection(kafka.bootstrap, partitions=1) as kit, AsyncExitStack() as stack:
        async with encoder_log(kit).join(kit.names.encoder_group) as unasked:
            assert not unasked.is_member
        members = [await stack.enter_async_context(running_worker(kit)) for _ in range(3)]
        async with asyncio.timeout(PATIENCE_S):
            while True:
                owned = sorted(len(member.owned_partitions) for member in members)
                if owned == [0, 1, 1] and all(member.is_member for member in members):
                    break
                await asyncio.sleep(0.1)
        await stack.aclose()
        assert not any(member.is_member for member in members)


async def test_a_later_start_goes_on_where_the_group_stood(kafka) -> None:
    async with collection(kafka.bootstrap) as kit:
        async with running_worker(kit):
            await publish(kit, 100, ids=100)
            await drained(kit, 100)
        await publish(kit, 100, ids=100, start=100)
        async with running_worker(kit):
            sources = await drained(kit, 200)
        assert len(sources) == 200
        assert_in_order_once(sources, kit.partitions)


def captions_of(ownership: KafkaOwnership) -> str:
    return ownership._options.names.content("captions")


async def claim_all(ownership: KafkaOwnership, wanted: int, *, records_max: int = 1000) -> list:
    claims = []
    async with asyncio.timeout(PATIENCE_S):
        while sum(len(c.records) for c in claims) < wanted:
            claims += await ownership.fetch(
                captions_of(ownership), records_max=records_max, timeout_ms=100
            )
    return claims


async def claims_of(session: OwnershipSession, topic: str, wanted: int) -> list:
    """Return the claims that one session fetches, until they have `wanted` records."""
    claims = []
    async with asyncio.timeout(PATIENCE_S):
        while sum(len(c.records) for c in claims) < wanted:
            claims += await session.fetch(topic, records_max=1000, timeout_ms=100, without=())
    return claims


def as_embeddings(kit: Collection, records: list[Record], topic_id: str) -> list[OutRecord]:
    vectors = ENCODER.encode_texts([repr(r.value) for r in records])
    topic = kit.names.embeddings("captions")
    return [
        embedding_record(
            topic,
            record,
            Source(topic_id, record.partition, record.offset),
            encode_embedding(ENCODER.space, vector),
        )
        for record, vector in zip(records, vectors, strict=True)
    ]


@asynccontextmanager
async def seized(
    kit: Collection, partitions: AbstractSet[Partition]
) -> AsyncIterator[OwnershipSession]:
    """Take the transactional ids of the partitions over, without joining the group.

    The others see it as a new owner whose rebalance they missed, or as an old one that stalled.
    """
    options = OwnershipOptions(
        kit.connection,
        kit.names,
        kit.names.encoder_group,
        record_bytes_max=10_000_000,
        transaction_timeout_ms=600_000,  # the test ends its transactions, not the broker
    )
    session = OwnershipSession(options, frozenset(partitions), KafkaOwnership(options)._counts)
    await session.open()
    try:
        yield session
    finally:
        await session.abandon()


async def test_a_sleeper_that_wakes_behind_a_new_owner_writes_nothing(kafka) -> None:
    """The old owner has fetched and stalled; it continues when its partitions are another's."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 50, ids=50)
        async with encoder_log(kit).join(kit.names.encoder_group) as old:
            claims = await claim_all(old, 50)
            # A session that initialises the same transactional ids is the owner now, as after a
            # rebalance that the sleeper did not see: its own group membership is still alive.
            async with seized(kit, old.owned_partitions):
                claim = claims[0]
                outputs = as_embeddings(kit, claim.records, claim.lease.topic_id)
                with pytest.raises(Fenced):
                    await old.commit(claim, outputs)
                assert old.owned_partitions == frozenset()
                assert await kit.log.committed(kit.names.encoder_group) == {}
            # It drops all it owned, joins again, and then encodes from the committed offset.
            claims = await claim_all(old, 50)
            for claim in claims:
                await old.commit(claim, as_embeddings(kit, claim.records, claim.lease.topic_id))
        sources = await drained(kit, 50)
        assert len(sources) == 50
    # A failed future that nobody looked at is logged when it is collected, which fails the test.
    gc.collect()


async def stopped(process: Role) -> None:
    """Wait until the process has stopped at its fault point."""
    async with asyncio.timeout(PATIENCE_S):
        while not process.is_stopped:
            assert process.process.returncode is None, process.log.read_text()[-3000:]
            await asyncio.sleep(0.05)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", ["takeover.fencing", "takeover.fenced"])
async def test_a_new_owner_goes_on_from_what_the_old_one_committed_before_the_fence(
    kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The old owner's transaction ends before the fence, or comes too late.

    An offset that was read before the fence may be one that the old owner still moved.
    """
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 50, ids=60)
        captions = Partition(kit.names.content("captions"), 0)
        async with seized(kit, {captions}) as old:
            [claim] = await claims_of(old, captions.topic, 50)
            ready, may_end = asyncio.Event(), asyncio.Event()
            commit_transaction = AIOKafkaProducer.commit_transaction

            async def held(producer: AIOKafkaProducer) -> None:
                ready.set()
                await may_end.wait()
                await commit_transaction(producer)

            monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", held)
            outputs = as_embeddings(kit, claim.records, claim.lease.topic_id)
            committing = asyncio.create_task(old.commit(claim, outputs))
            async with asyncio.timeout(PATIENCE_S):
                await ready.wait()
            # The session timeout is long: the group must not expire the member while it is stopped.
            async with role(
                tmp_path,
                "encode",
                *of(kit),
                fault=f"{point}:1:stop",
                TIDELENS_ENCODE_SESSION_MS="600000",
            ) as new:
                await stopped(new)
                may_end.set()
                [end] = await asyncio.gather(committing, return_exceptions=True)
                assert (end is None) == (point == "takeover.fencing"), end
                new.signal(signal.SIGCONT)
                await publish(kit, 10, ids=60, start=50)
                await drained(kit, 60, timeout_s=PATIENCE_S)
                assert await new.stop() == 0
            assert await drained(kit, 60) == [(0, offset) for offset in range(60)]
    gc.collect()


@pytest.mark.timeout(600)
async def test_what_was_claimed_before_a_loss_is_not_committed_behind_it(kafka) -> None:
    """The batch was slow, so that its partition has moved to another encoder and back.

    The producer is the rightful one again by then, so only the lease reveals it.
    """
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 50, ids=50)
        async with encoder_log(kit).join(kit.names.encoder_group) as old:
            first, *_, late = await claim_all(old, 50, records_max=25)
            async with seized(kit, old.owned_partitions):
                with pytest.raises(Fenced):
                    await old.commit(first, [])
            async with running_worker(kit):
                await drained(kit, 50, timeout_s=PATIENCE_S)
            await claim_nothing(old)
            assert late.lease.partition in old.owned_partitions
            with pytest.raises(Fenced):
                await old.commit(late, as_embeddings(kit, late.records, late.lease.topic_id))
        assert await drained(kit, 50) == [(0, offset) for offset in range(50)]
    gc.collect()


async def test_a_fence_between_two_sends_is_a_fence(kafka, monkeypatch) -> None:
    """The exception of aiokafka is not a KafkaError then: not in a transaction, it says."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 2, ids=2)
        async with encoder_log(kit).join(kit.names.encoder_group) as old:
            [claim] = await claim_all(old, 2)
            send = AIOKafkaProducer.send

            async def answered(*args: object, **options: object) -> object:
                future = await send(*args, **options)
                await asyncio.wait([future])
                return future

            async with seized(kit, old.owned_partitions):
                monkeypatch.setattr(AIOKafkaProducer, "send", answered)
                outputs = as_embeddings(kit, claim.records, claim.lease.topic_id)
                with pytest.raises(Fenced, match="not in transaction"):
                    await old.commit(claim, outputs)
                assert old.owned_partitions == frozenset()
    gc.collect()


@pytest.mark.parametrize("size", [5 * 2**20, 9 * 2**20], ids=["broker refuses", "client refuses"])
async def test_an_output_that_is_too_large_is_no_fence(kafka, size: int) -> None:
    """The offset does not advance without the output, either."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 2, ids=2)
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            [claim] = await claim_all(ownership, 2)
            outputs = as_embeddings(kit, claim.records, claim.lease.topic_id)
            large = replace(outputs[0], value=b"x" * size)
            with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes"):
                await ownership.commit(claim, [large, outputs[1]])
            assert await kit.log.committed(kit.names.encoder_group) == {}
            [claim] = await claim_all(ownership, 2)
            await ownership.commit(claim, as_embeddings(kit, claim.records, claim.lease.topic_id))
        assert len(await drained(kit, 2)) == 2
    gc.collect()


def hostile(kit: Collection) -> list[OutRecord]:
    """Create records that are bad in ways of their own; each is an item `bad-N`."""
    deep = b"[" * 252 + b"]" * 252
    values = [
        ("images", b'{"image": {"data": ""}}', b""),
        ("images", b'{"image": {"ref": "file://[", "sha256": "' + b"0" * 64 + b'"}}', b""),
        ("captions", b'{"text": "x", "metadata": {"m": ' + deep + b"}}", b""),
        ("captions", b'{"text": "x"}', b"\0" * 1_200_000),
        ("captions", b"{" * (3 * RECORD_BYTES_MAX), b""),
    ]
    return [
        OutRecord(
            kit.names.content(target),
            f"bad-{number}".encode(),
            value,
            [("ce_type", kind or EVENT_TYPES[target].encode())],
            partition=0,
        )
        for number, (target, value, kind) in enumerate(values)
    ]


async def publish_compressed(kit: Collection, records: list[OutRecord]) -> None:
    """Publish with other limits than Tidelens's: the records are small only on the way."""
    async with AIOKafkaProducer(
        **kit.connection.client_options(),
        compression_type="gzip",
        max_request_size=4 * RECORD_BYTES_MAX,
    ) as producer:
        for r in records:
            await producer.send_and_wait(
                r.topic, r.value, r.key, partition=r.partition, headers=list(r.headers)
            )


async def lettered(kit: Collection, count: int) -> list[Record]:
    async with asyncio.timeout(60):
        while True:
            [letters] = (await kit.read_all(kit.names.dead_letters)).values()
            if len(letters) >= count:
                return letters
            await asyncio.sleep(0.2)


async def test_bad_records_yield_tombstones_and_the_next_are_served(kafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit, running_worker(kit):
        bad = hostile(kit)
        await publish_compressed(kit, bad)
        await publish(kit, 1, ids=1)
        letters = await lettered(kit, len(bad))
        assert {letter.key for letter in letters} == {record.key for record in bad}
        assert [r.key for r in letters if r.header("dead_letter_truncated")] == [b"bad-4"]
        async with asyncio.timeout(60):
            while {item for _, item in await kit.truth(ENCODER)} != {"item-0"}:
                await asyncio.sleep(0.2)
        tombstones = {
            record.key
            for target in TARGETS
            for record in (await kit.read_all(kit.names.embeddings(target)))[0]
            if record.value is None
        }
        assert tombstones == {record.key for record in bad}


async def test_a_dead_letter_topic_that_takes_little_stops_nobody(kafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        async with kit.connection.admin() as admin:
            little = {"max.message.bytes": "20000"}
            await admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, kit.names.dead_letters, little)]
            )
        topic = kit.names.content("captions")
        kind = [("ce_type", EVENT_TYPES["captions"].encode())]
        await kit.log.publish([OutRecord(topic, b"bad", b"{" * 100_000, kind)])
        async with running_worker(kit):
            await publish(kit, 1, ids=1)
            [letter] = await lettered(kit, 1)
            assert await drained(kit, 2) == [(0, 0), (0, 1)]
        assert letter.header("dead_letter_truncated") is not None
        assert letter.header("dead_letter_reason") == b"invalid_json"


async def test_a_commit_ends_with_its_session(kafka, monkeypatch) -> None:
    """A revocation closes the producer between two steps, and nobody answers the second."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 50, ids=50)
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            [claim] = await claim_all(ownership, 50)
            closing = []

            async def unanswered(*_: object) -> None:
                closing.append(asyncio.create_task(ownership.close()))
                await asyncio.Event().wait()

            monkeypatch.setattr(AIOKafkaProducer, "send_offsets_to_transaction", unanswered)
            async with asyncio.timeout(90):
                with pytest.raises(Fenced):
                    await ownership.commit(
                        claim, as_embeddings(kit, claim.records, claim.lease.topic_id)
                    )
            await asyncio.gather(*closing)
        assert await kit.log.committed(kit.names.encoder_group) == {}


def ghost(kit: Collection) -> OutRecord:
    """Create an embedding of an item that is not published."""
    value = encode_embedding(ENCODER.space, ENCODER.encode_texts(["ghost"])[0])
    headers = [("source", Source("x", 0, 3).encode()), ("appended", b"0")]
    return OutRecord(kit.names.embeddings("captions"), b"ghost", value, headers, partition=0)


async def test_a_lost_past_takes_ghosts_out_before_encoding(kafka) -> None:
    """The group has no committed offset, but there are embeddings of items that no longer exist."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await kit.log.publish([ghost(kit)])
        await publish(kit, 10, ids=10)
        async with running_worker(kit):
            await drained(kit, 12)
        truth = await kit.truth(ENCODER)
        assert {item for _, item in truth} == {f"item-{n}" for n in range(10)}


async def committed_as(kit: Collection, offset: int, metadata: dict[str, object]) -> None:
    """Let the encoders' group stand there, as an encoder that ended long ago had left it."""
    consumer = AIOKafkaConsumer(
        **kit.connection.client_options(),
        group_id=kit.names.encoder_group,
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        partition = TopicPartition(kit.names.content("captions"), 0)
        consumer.assign([partition])
        text = orjson.dumps(metadata).decode()
        await consumer.commit({partition: OffsetAndMetadata(offset, text)})
    finally:
        await consumer.stop()


async def test_commits_of_a_newer_version_end_the_encoder_with_a_sentence(kafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await committed_as(kit, 0, {"version": 2, "topic_id": "x"})
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            with pytest.raises(ConfigurationError, match=r"commit metadata.*version 2.*version 1"):
                await claim_nothing(ownership)


@pytest.mark.parametrize("away_s, ghosts", [(2 * 86_400, set()), (3_600, {"item-0"})])
async def test_deletes_missed_while_away_are_made_up_for(kafka, away_s, ghosts) -> None:
    """Behind delete.retention.ms a tombstone may have been compacted away before it was read."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        topic = kit.names.content("captions")
        await publish(kit, 10, ids=10)
        async with running_worker(kit):
            await drained(kit, 10)
        ids = await kit.connection.topic_ids([topic])
        await kit.log.publish([delete_record(topic, "item-0")])
        # The tombstone at offset 10 is skipped, as if it had been compacted away.
        caught_up = int((time.time() - away_s) * 1000)
        await committed_as(kit, 11, {"topic_id": ids[topic], "caught_up_ms": caught_up})
        await publish(kit, 1, ids=100, start=50)
        async with running_worker(kit):
            await drained(kit, 11 + (not ghosts))
        truth = await kit.truth(ENCODER)
        expected = {f"item-{n}" for n in range(1, 10)} | {"item-50"} | ghosts
        assert {item for _, item in truth} == expected


@pytest.mark.parametrize("kept_s, ghosts", [(2, set()), (3_600, {"item-0"})])
async def test_deletes_whose_tombstones_expired_on_the_broker_are_made_up_for(
    kafka, kept_s, ghosts
) -> None:
    """No deletes are made up for if an encoder assumes a longer retention than the broker has."""
    async with collection(kafka.bootstrap, partitions=1, eager_compaction=True) as kit:
        topic = kit.names.content("captions")
        await publish(kit, 10, ids=10)
        async with running_worker(kit, retention_min_s=kept_s):
            await drained(kit, 10)
        await kit.log.publish([delete_record(topic, "item-0")])
        await expired(
            kit, topic, {b"item-0"}, lambda n: content_record(topic, caption("last", str(n)))
        )
        await asyncio.sleep(2.1)
        async with running_worker(kit, retention_min_s=kept_s):
            async with asyncio.timeout(30):
                while ("captions", "last") not in await kit.truth(ENCODER):
                    await asyncio.sleep(0.2)
        published = {
            (record.key or b"").decode()
            for record in (await kit.read_all(topic))[0]
            if record.value
        }
        assert published == {"last", *(f"item-{n}" for n in range(1, 10))}
        assert {item for _, item in await kit.truth(ENCODER)} == published | ghosts


async def truncated(kit: Collection, before: int) -> None:
    """Let the captions of partition 0 begin there, as DeleteRecords and retention do it.

    Brokers refuse it where topics are compacted only, and hear of a new policy a little later.
    """
    topic = kit.names.content("captions")
    async with kit.connection.admin() as admin, asyncio.timeout(60):
        policy = {"cleanup.policy": "compact,delete"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, policy)])
        while True:
            try:
                await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before)})
            except PolicyViolationError:
                await asyncio.sleep(0.1)
            else:
                return


async def live(kit: Collection, items: set[str], timeout_s: float = 60) -> None:
    """Wait until the embeddings hold just these."""
    async with asyncio.timeout(timeout_s):
        while {item for _, item in await kit.truth(ENCODER)} != items:
            await asyncio.sleep(0.2)


async def stands(kit: Collection, offset: int, timeout_s: float = 60) -> None:
    """Wait until the group has committed that offset of partition 0."""
    partition = Partition(kit.names.content("captions"), 0)
    async with asyncio.timeout(timeout_s):
        while (await kit.log.committed(kit.names.encoder_group)).get(partition) != offset:
            await asyncio.sleep(0.2)


async def test_a_new_group_starts_where_the_log_begins(kafka) -> None:
    async with collection(kafka.bootstrap) as kit:
        await publish(kit, 100, ids=100)
        await truncated(kit, 3)
        async with running_worker(kit):
            sources = await drained(kit, 97)
        assert len(sources) == 97
        assert_in_order_once(sources, kit.partitions)
        assert min(offset for partition, offset in sources if partition == 0) == 3


async def test_a_new_group_takes_ghosts_out_also_where_the_log_is_empty_by_now(kafka) -> None:
    """The end of the log is above 0 then, which does not prove that its records were read."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await kit.log.publish([ghost(kit)])
        await publish(kit, 10, ids=10)
        await truncated(kit, 10)
        async with running_worker(kit):
            await live(kit, set())
            await publish(kit, 1, ids=1)
            await live(kit, {"item-0"})


async def test_a_log_that_begins_above_the_committed_offset_is_a_lost_past(kafka) -> None:
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, 10, ids=10)
        async with running_worker(kit):
            await drained(kit, 10)
        await stands(kit, 10)
        await publish(kit, 4, ids=100, start=10)
        await publish(kit, 1, ids=100, start=9)
        await truncated(kit, 12)
        async with running_worker(kit):
            await live(kit, {"item-12", "item-13", "item-9"})
            # Once, and not again in each session.
            await stands(kit, 15)
        lost = [(0, -1)] * 9
        encoded_again = [(0, 12), (0, 13), (0, 14)]
        assert (await drained(kit, 22))[10:] == lost + encoded_again


@pytest.mark.parametrize("count", [10, 0])
async def test_a_committed_offset_above_the_end_is_a_lost_past(kafka, count: int) -> None:
    """An unclean leader election can lose the log's end, which may grow past that offset again."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        await publish(kit, count, ids=10)
        await kit.log.publish([ghost(kit)])
        ids = await kit.connection.topic_ids([kit.names.content("captions")])
        caught_up = int(time.time() * 1000)
        metadata = {"topic_id": ids[kit.names.content("captions")], "caught_up_ms": caught_up}
        await committed_as(kit, 20, metadata)
        async with running_worker(kit):
            await live(kit, {f"item-{n}" for n in range(count)})
            await stands(kit, count)
            await publish(kit, 15, ids=100, start=count)
            await live(kit, {f"item-{n}" for n in range(count + 15)})


async def test_an_encoder_that_the_log_begins_to_pass_goes_on_by_itself(kafka) -> None:
    """More is published than it fetches ahead, and removed before it comes to it."""
    async with collection(kafka.bootstrap, partitions=1) as kit:
        topic = kit.names.content("captions")
        large = [OutRecord(topic, b"large", b"x" * 2**20, [], partition=0) for _ in range(12)]
        await kit.log.publish(large)
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            [first, *_] = await claim_all(ownership, 1, records_max=1)
            await truncated(kit, 12)
            await publish(kit, 1, ids=1)
            async with asyncio.timeout(PATIENCE_S):
                found = [first]
                while found[-1].next_position < 13:
                    found += await ownership.fetch(topic, records_max=1, timeout_ms=100)
            last = found[-1]
            assert [record.offset for record in last.records] == [12]
            assert last.lease is not first.lease
            outputs = as_embeddings(kit, last.records, last.lease.topic_id)
            await ownership.commit(last, outputs)
        assert await drained(kit, 1) == [(0, 12)]


async def test_an_encoder_that_falls_too_far_behind_makes_up_on_its_way(kafka) -> None:
    """A re-encode can be such a case, if it takes longer than tombstones are kept."""
    async with collection(kafka.bootstrap, partitions=1, retention_ms=1_000) as kit:
        async with encoder_log(kit, retention_min_s=1).join(kit.names.encoder_group) as ownership:
            await publish(kit, 10, ids=10)
            claims = await claim_all(ownership, 10)
            await publish(kit, 1, ids=100, start=50)
            await asyncio.sleep(1.2)
            topic = kit.names.content("captions")
            # Not caught up for longer than a second: it begins again at what was committed.
            assert await ownership.fetch(topic, records_max=100, timeout_ms=1_000) == []
            outputs = as_embeddings(kit, claims[0].records, claims[0].lease.topic_id)
            with pytest.raises(Fenced):
                await ownership.commit(claims[0], outputs)
            claims = await claim_all(ownership, 11)
            for claim in claims:
                outputs = as_embeddings(kit, claim.records, claim.lease.topic_id)
                await ownership.commit(claim, outputs)
        assert len(await drained(kit, 11)) == 11


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 8, 16])
async def test_a_closing_that_is_cancelled_still_closes_everything(kafka, steps: int) -> None:
    """A closing aiokafka client is marked as closed first, so nobody can stop it a second time."""
    async with collection(kafka.bootstrap, partitions=2) as kit:
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            await claim_nothing(ownership)
            closing = asyncio.create_task(ownership.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
        del ownership, closing
        await nothing_open()


async def test_a_member_that_cannot_leave_in_time_is_closed_all_the_same(
    kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the group, say; its heartbeats must not hold its partitions for ever."""
    async with collection(kafka.bootstrap, partitions=2) as kit:
        async with encoder_log(kit).join(kit.names.encoder_group) as ownership:
            await claim_nothing(ownership)
            monkeypatch.setattr("streams.kafka.client_lifecycle.CLOSE_S", 0.0)
        del ownership
        await nothing_open()


async def claim_nothing(ownership: KafkaOwnership) -> None:
    """Fetch, without records, until the group has assigned everything."""
    async with asyncio.timeout(PATIENCE_S):
        while not ownership.owned_partitions:
            assert (
                await ownership.fetch(captions_of(ownership), records_max=10, timeout_ms=100) == []
            )


@pytest.mark.timeout(180)
async def test_a_storm_of_joins_and_leaves_keeps_order_and_loses_nothing(kafka) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    total = 4000
    async with collection(kafka.bootstrap) as kit:
        leaving: list[asyncio.Event] = []
        members: list[asyncio.Task[None]] = []

        async def member(leave: asyncio.Event) -> None:
            async with running_worker(kit):
                await leave.wait()

        def join() -> None:
            leaving.append(asyncio.Event())
            members.append(asyncio.create_task(member(leaving[-1])))

        join()
        published = 0
        while published < total:
            await publish(kit, 200, ids=10_000, start=published)
            published += 200
            if len(leaving) < 3 and dice.random() < 0.5:
                join()
            elif len(leaving) > 1 and dice.random() < 0.4:
                leaving.pop(dice.randrange(len(leaving))).set()
            await asyncio.sleep(dice.uniform(0.1, 0.8))
        try:
            sources = await drained(kit, total, timeout_s=90)
        finally:
            for leave in leaving:
                leave.set()
            await asyncio.gather(*members)
        assert len(sources) == total, f"seed {seed}"
        assert_in_order_once(sources, kit.partitions)
