"""Every client over a SASL listener: producer, consumer, admin, lag; and what a refusal says."""

import asyncio
import time

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import SecretStr
from yarl import URL

from contracts.errors import BrokerUnavailable, TidelensError
from contracts.events.content_event import content_record
from contracts.settings import KafkaSettings
from contracts.testing.clock import ManualClock
from streams.kafka.connection import KafkaConnection
from streams.lag.kafka_lag import KafkaLag
from tests.kits.broker_fixture import TestKafka
from tests.kits.kafka import caption, collection

pytestmark = [pytest.mark.anyio, pytest.mark.broker]


def sasl(
    kafka: TestKafka, *, password: str | None = None, user: str | None = None
) -> KafkaConnection:
    settings = KafkaSettings(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=user or kafka.user,
        sasl_password=SecretStr(password or kafka.password),
    )
    return KafkaConnection(kafka.sasl_bootstrap, settings)


async def refusal(connection: KafkaConnection) -> str:
    """Return the one line of the refusal, which comes within the time that a person waits."""
    async with asyncio.timeout(30):
        with pytest.raises(BrokerUnavailable) as refused:
            async with connection.admin():
                pass
    message = str(refused.value)
    assert "\n" not in message
    return message


async def test_producer_consumer_admin_log_and_lag(kafka: TestKafka) -> None:
    connection = sasl(kafka)
    async with collection(kafka.sasl_bootstrap, partitions=1, kafka=connection.kafka) as kit:
        topic = kit.names.content("captions")
        await kit.log.publish([content_record(topic, caption("a", "by the event log"))])
        producer = AIOKafkaProducer(**connection.client_options())
        await producer.start()
        try:
            await producer.send_and_wait(topic, b"{}", b"b")
        finally:
            await producer.stop()
        consumer = AIOKafkaConsumer(
            topic, **connection.client_options(), auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            assert {(await consumer.getone()).key for _ in range(2)} == {b"a", b"b"}
        finally:
            await consumer.stop()
        async with connection.admin() as admin:
            assert topic in await admin.list_topics()
        lag = KafkaLag(connection, kit.names, None, ManualClock(time.time()))
        await lag.start()
        try:
            assert sum(row.records for row in await lag.lag()) == 2
        finally:
            await lag.stop()


async def test_faust_takes_the_same_credentials(kafka: TestKafka) -> None:
    connection = sasl(kafka)
    app = faust.App(
        "sasl-test",
        broker=URL(f"kafka://{kafka.sasl_bootstrap}"),
        broker_credentials=connection.faust_credentials(),
        store="memory://",
        web_enabled=False,
    )
    producer = app.transport.create_producer()
    async with asyncio.timeout(90):
        await producer.start()
        await producer.stop()


async def test_a_wrong_password_is_named(kafka: TestKafka) -> None:
    message = await refusal(sasl(kafka, password="wrong"))
    assert "refuses user 'tester'" in message
    assert "TIDELENS_KAFKA_SASL_USERNAME" in message
    assert "wrong" not in message


async def test_a_plain_client_at_a_sasl_listener_learns_why(kafka: TestKafka) -> None:
    message = await refusal(KafkaConnection(kafka.sasl_bootstrap, KafkaSettings()))
    assert "TIDELENS_KAFKA_SECURITY_PROTOCOL, now PLAINTEXT" in message


async def test_a_sasl_client_at_a_plain_listener_learns_why(kafka: TestKafka) -> None:
    connection = KafkaConnection(kafka.bootstrap, sasl(kafka).kafka)
    assert "TIDELENS_KAFKA" in await refusal(connection)


async def test_a_tls_client_at_a_plain_listener_learns_why(kafka: TestKafka) -> None:
    connection = KafkaConnection(kafka.bootstrap, KafkaSettings(security_protocol="SSL"))
    assert "TIDELENS_KAFKA_SECURITY_PROTOCOL, now SSL" in await refusal(connection)


async def test_one_good_address_of_several_is_enough(kafka: TestKafka) -> None:
    connection = KafkaConnection(f"127.0.0.1:1,{kafka.bootstrap}", KafkaSettings())
    await connection.require_reachable()


async def test_a_refused_password_is_a_usage_error(kafka: TestKafka) -> None:
    with pytest.raises(TidelensError):
        await sasl(kafka, user="nobody").topic_ids(["any"])
