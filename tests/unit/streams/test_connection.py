"""Connection: options for each protocol, and one clear line for each way to be wrong."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import errors
from pydantic import SecretStr

from contracts.errors import BrokerUnavailable, ConfigurationError
from contracts.events.record import OutRecord, TopicPartition
from contracts.partitioner import partitioner
from contracts.settings import KafkaSettings
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaEventLog


def sasl(**more: object) -> KafkaSettings:
    return KafkaSettings(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="ann",
        sasl_password=SecretStr("hidden"),
    ).model_copy(update=more)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_plain_options_carry_no_secrets() -> None:
    assert KafkaConnection("h:1", KafkaSettings()).client_options() == {
        "bootstrap_servers": "h:1",
        "client_id": "tidelens",
        "security_protocol": "PLAINTEXT",
    }


def test_sasl_options() -> None:
    options = KafkaConnection("h:1", sasl()).client_options()
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("ann", "hidden")
    assert "ssl_context" not in options


def test_tls_options_verify_the_broker() -> None:
    context = KafkaConnection("h:1", sasl(security_protocol="SASL_SSL")).client_options()[
        "ssl_context"
    ]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_the_password_is_not_in_the_repr() -> None:
    assert "hidden" not in repr(KafkaConnection("h:1", sasl()))


@pytest.mark.parametrize("missing", ["sasl_username", "sasl_password"])
def test_a_missing_credential_is_named(missing: str) -> None:
    with pytest.raises(ConfigurationError, match=f"TIDELENS_KAFKA_{missing.upper()}: not set"):
        KafkaConnection("h:1", sasl(**{missing: None})).client_options()


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    kafka = KafkaSettings(security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem")
    with pytest.raises(ConfigurationError, match=r"ca\.pem .No such file"):
        KafkaConnection("h:1", kafka).client_options()


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    kafka = KafkaSettings(security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem")
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        KafkaConnection("h:1", kafka).client_options()


@pytest.mark.parametrize("brokers", ["", "host", "host:", ":1", "host:0", "host:http", "a:1,b"])
@pytest.mark.anyio
async def test_a_malformed_address_says_the_form(brokers: str) -> None:
    with pytest.raises(ConfigurationError, match=r"want HOST:PORT"):
        await KafkaConnection(brokers, KafkaSettings()).require_reachable()


@pytest.mark.anyio
async def test_nobody_listening(closed_port: int) -> None:
    with pytest.raises(BrokerUnavailable) as refused:
        async with KafkaConnection(f"127.0.0.1:{closed_port}", KafkaSettings()).admin():
            pass
    assert str(refused.value) == (
        f"no Kafka broker at 127.0.0.1:{closed_port} (connection refused); start one with "
        "`tidelens up`, or give the address of yours with --brokers HOST:PORT"
    )


@pytest.mark.anyio
async def test_a_silent_port_is_given_up_in_time(silent_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="no answer in time"):
        await KafkaConnection(f"127.0.0.1:{silent_port}", KafkaSettings()).require_reachable(
            timeout_s=0.3
        )
    assert time.monotonic() - started < 20


@pytest.mark.anyio
async def test_something_else_than_kafka_listens() -> None:
    async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(web_server, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="hangs up on us; check the address"):
            await KafkaConnection(f"127.0.0.1:{port}", KafkaSettings()).require_reachable()


@pytest.mark.parametrize(
    "error",
    [
        errors.KafkaConnectionError("gone"),
        errors.NodeNotReadyError("gone"),
        errors.KafkaTimeoutError("slow"),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
    ],
)
@pytest.mark.anyio
async def test_errors_of_a_client_in_use_are_translated(error: Exception) -> None:
    with pytest.raises(BrokerUnavailable, match="h:1"):
        async with KafkaConnection("h:1", KafkaSettings()).errors_translated():
            raise error


@pytest.mark.anyio
async def test_reading_from_nobody(closed_port: int) -> None:
    connection = KafkaConnection(f"127.0.0.1:{closed_port}", KafkaSettings())
    opened = KafkaEventLog.open(connection, partition_of=partitioner("murmur2"), record_bytes_max=1)
    async with opened as event_log:
        with pytest.raises(BrokerUnavailable, match=str(closed_port)):
            await event_log.tail({TopicPartition("any", 0): 0})


@pytest.mark.anyio
async def test_other_errors_pass() -> None:
    with pytest.raises(errors.MessageSizeTooLargeError):
        async with KafkaConnection("h:1", KafkaSettings()).errors_translated():
            raise errors.MessageSizeTooLargeError("t")


@pytest.mark.parametrize(
    "error",
    [
        errors.NotLeaderForPartitionError,  # a topic that was deleted
        errors.LeaderNotAvailableError,
        errors.NotEnoughReplicasError,
        errors.UnknownTopicOrPartitionError,
    ],
)
@pytest.mark.anyio
async def test_what_partitions_do_not_take_now_is_told_with_their_topic(
    monkeypatch: pytest.MonkeyPatch, error: type[errors.KafkaError]
) -> None:
    connection = KafkaConnection("h:1", KafkaSettings())
    event_log = KafkaEventLog(connection, partition_of=partitioner("murmur2"), record_bytes_max=1)

    async def refused(*_: object) -> None:
        raise error()

    monkeypatch.setattr(event_log, "_publish", refused)
    with pytest.raises(BrokerUnavailable, match=rf"records of tidelens\.a now .*{error.__name__}"):
        await event_log.publish([OutRecord("tidelens.a", b"k", b"v")])


@pytest.mark.anyio
async def test_a_missing_right_points_to_the_acls() -> None:
    with pytest.raises(BrokerUnavailable, match=r"\(.*t.*\); `tidelens topics print`"):
        async with KafkaConnection("h:1", KafkaSettings()).errors_translated():
            raise errors.TopicAuthorizationFailedError("t")
