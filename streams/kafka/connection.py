"""The one way in which every Kafka client reaches the broker: addresses, SASL, TLS, clear errors.

aiokafka says "unable to bootstrap" whatever the cause was, and logs the cause several times.
`KafkaConnection.require_reachable` asks each address itself, so that a wrong port, a wrong password
and a missing CA certificate each give one line that says what to do.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.metadata import MetadataRequest

from contracts.errors import BrokerAway, BrokerUnavailable, ConfigurationError
from contracts.settings import KafkaSettings
from streams.kafka.client_lifecycle import close_kafka_client, start_client
from streams.kafka.connection_errors import AUTH_ERRORS, AWAY, FORBIDDEN, LOST, connect_advice
from streams.kafka.rebootstrap import FAILURES, BrokerUnreached, RebootstrappingClient
from streams.topics.metadata import describe_topics

if TYPE_CHECKING:
    import faust

# A broker that is there answers in milliseconds; this bounds an address that swallows packets.
CHECK_S = 4.0
# A broker that restarts is away for a moment, and clients reconnect by themselves.
PATIENCE_S = 2.0
_TRY_AGAIN_S = 1.0
# At the start, at most this many brokers that a bootstrap address names are tried.
_REACHED_MAX = 8


class AdvertisedBroker(NamedTuple):
    """A broker and the address at which it can be reached, its `advertised.listeners`."""

    node_id: int
    host: str
    port: int


@dataclass(frozen=True)
class KafkaConnection:
    """The addresses of the brokers, and the settings with which they let a client in.

    | want | use |
    |---|---|
    | options of a producer, consumer or admin client | `**connection.client_options()` |
    | the same for Faust | `broker_credentials=connection.faust_credentials()` |
    | a started admin client | `async with connection.admin() as admin` |
    | one clear line, or nothing, before anything else | `await connection.require_reachable()` |
    """

    brokers: str
    kafka: KafkaSettings

    def client_options(self) -> dict[str, Any]:
        """Return the keyword arguments that every aiokafka client takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.brokers,
            "client_id": self.kafka.client_id,
            "security_protocol": self.kafka.security_protocol,
        }
        if self._tls:
            options["ssl_context"] = self._ssl_context
        if self._sasl:
            options["sasl_mechanism"] = self.kafka.sasl_mechanism
            options["sasl_plain_username"], options["sasl_plain_password"] = self._user
        return options

    def faust_credentials(self) -> "faust.SASLCredentials | faust.SSLCredentials | None":
        """Return the credentials of a Faust app, or None if the broker wants neither TLS nor a
        user.
        """
        import faust  # seconds to import: only the index role pays for it

        if self._sasl:
            user, password = self._user
            return faust.SASLCredentials(
                username=user,
                password=password,
                mechanism=self.kafka.sasl_mechanism,
                ssl_context=self._ssl_context if self._tls else None,
            )
        return faust.SSLCredentials(self._ssl_context) if self._tls else None

    async def require_reachable(self, timeout_s: float = CHECK_S) -> None:
        """Return once a broker has let us in. Raises BrokerUnavailable, which names the cause."""
        causes = {}
        probes = [
            asyncio.create_task(self._probe(host, port, timeout_s))
            for host, port in self.addresses()
        ]
        try:
            for probe in asyncio.as_completed(probes):
                error = await probe
                if error is None:
                    return
                causes[error] = connect_advice(error, self.brokers, self.kafka)
        finally:
            for task in probes:
                task.cancel()
            await asyncio.gather(*probes, return_exceptions=True)
        # Of several addresses, one that refuses our password says more than one that is down.
        worst = next((e for e in causes if isinstance(e, AUTH_ERRORS)), next(iter(causes)))
        kind = BrokerUnavailable if isinstance(worst, AUTH_ERRORS) else BrokerAway
        raise kind(causes[worst]) from None

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """Yield a started admin client. Raises BrokerUnavailable at the start and while in use."""
        await self.require_reachable()
        async with self.errors_translated():
            admin = AIOKafkaAdminClient(**self.client_options(), request_timeout_ms=15_000)
            await start_client(admin)
            try:
                yield admin
            finally:
                await close_kafka_client(admin)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AIOKafkaClient]:
        """Yield a started plain client, for requests that aiokafka's admin client lacks."""
        await self.require_reachable()
        async with self.errors_translated():
            client = RebootstrappingClient(**self.client_options(), request_timeout_ms=15_000)
            await start_client(client)
            try:
                yield client
            finally:
                await close_kafka_client(client)

    @asynccontextmanager
    async def errors_translated(self) -> AsyncIterator[None]:
        """Raise BrokerUnavailable for aiokafka's errors about being let in and served."""
        try:
            yield
        except (*AUTH_ERRORS, *FORBIDDEN) as error:
            raise BrokerUnavailable(connect_advice(error, self.brokers, self.kafka)) from error
        except AWAY as error:
            raise BrokerAway(self._why_away(error)) from error

    async def require_reached(self) -> None:
        """Raise BrokerUnavailable if a client of this process misses its broker for PATIENCE_S."""
        await RebootstrappingClient.try_again(self.brokers, within_s=_TRY_AGAIN_S)
        trouble = RebootstrappingClient.unreached_reason(self.brokers, for_s=PATIENCE_S)
        if trouble is not None:
            raise BrokerAway(self._why_away(trouble))

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the broker's id of each topic. Raises TopicMismatch for one that is absent."""
        async with self.client() as client:
            found = await describe_topics(client, topics)
        return {name: topic.id for name, topic in found.items()}

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the partition count of each topic. Raises TopicMismatch for one that is absent."""
        async with self.client() as client:
            found = await describe_topics(client, topics)
        return {name: topic.partitions for name, topic in found.items()}

    def _why_away(self, error: BaseException) -> str:
        """Say why; what our clients do not reach says more than the error of one let in before."""
        known = RebootstrappingClient.unreached_reason(self.brokers) or error
        # The broker did let us in before, so its hanging up does not mean that settings are wrong.
        if isinstance(known, LOST) and not isinstance(known, BrokerUnreached):
            known = ConnectionError("the connection was lost")
        return connect_advice(known, self.brokers, self.kafka)

    @property
    def _tls(self) -> bool:
        return self.kafka.security_protocol in ("SSL", "SASL_SSL")

    @property
    def _sasl(self) -> bool:
        return self.kafka.security_protocol.startswith("SASL_")

    @property
    def _user(self) -> tuple[str, str]:
        user, password = self.kafka.sasl_username, self.kafka.sasl_password
        for name, given in (("USERNAME", user), ("PASSWORD", password)):
            if given is None:
                raise ConfigurationError(
                    f"TIDELENS_KAFKA_SASL_{name}: not set, and "
                    f"TIDELENS_KAFKA_SECURITY_PROTOCOL={self.kafka.security_protocol} needs it"
                )
        assert user is not None and password is not None
        return user, password.get_secret_value()

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        kafka = self.kafka
        password = kafka.ssl_password.get_secret_value() if kafka.ssl_password else None
        try:
            context: ssl.SSLContext = create_ssl_context(
                cafile=kafka.ssl_cafile,
                certfile=kafka.ssl_certfile,
                keyfile=kafka.ssl_keyfile,
                password=password,
            )
        except OSError as error:  # ssl.SSLError is one
            files = [f for f in (kafka.ssl_cafile, kafka.ssl_certfile, kafka.ssl_keyfile) if f]
            raise ConfigurationError(
                f"TIDELENS_KAFKA_SSL_*: cannot load {', '.join(map(str, files))} "
                f"({error.strerror or error})"
            ) from None
        return context

    def addresses(self) -> list[tuple[str, int]]:
        """Return the bootstrap addresses. Raises ConfigurationError for an impossible one."""
        addresses = []
        for address in self.brokers.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ConfigurationError(
                    f"brokers: want HOST:PORT[,HOST:PORT...], got {self.brokers!r}"
                )
            addresses.append((host.strip("[]"), int(port)))
        return addresses

    async def _probe(self, host: str, port: int, timeout_s: float) -> BaseException | None:
        """Return None when this address names a broker that can be reached, or else why not."""
        try:
            async with asyncio.timeout(timeout_s):
                brokers = await self.advertised_brokers(host, port)
        except FAILURES as error:
            return error
        return await self._first_reached(brokers, (host, port), timeout_s)

    async def advertised_brokers(self, host: str, port: int) -> list[AdvertisedBroker]:
        """Ask a bootstrap address for the brokers that it names. Raises one of FAILURES."""
        # A listener that wants SASL accepts the first message of a plain client and hangs up on the
        # first real request, so send one.
        async with self._connected(host, port) as conn:
            metadata = await conn.send(MetadataRequest([]))
        return [AdvertisedBroker(*broker[:3]) for broker in metadata.brokers]

    async def answers(self, timeout_s: float) -> bool:
        """Return whether a bootstrap address answers, wherever it says that the brokers are."""
        host, port = self.addresses()[0]
        try:
            async with asyncio.timeout(timeout_s):
                await self.advertised_brokers(host, port)
        except FAILURES:
            return False
        return True

    async def unreached(
        self, broker: AdvertisedBroker, timeout_s: float = CHECK_S
    ) -> BrokerUnreached | None:
        """Connect to the address that a broker advertises; return None when it lets us in."""
        try:
            async with asyncio.timeout(timeout_s), self._connected(broker.host, broker.port):
                return None
        except FAILURES as error:
            return BrokerUnreached(broker.node_id, broker.host, broker.port, error)

    async def _first_reached(
        self, brokers: Sequence[AdvertisedBroker], answered: tuple[str, int], timeout_s: float
    ) -> BrokerUnreached | None:
        """One reached broker is enough, as for a client at its start: the others may be away."""
        if any((broker.host, broker.port) == answered for broker in brokers):
            return None
        asked = random.sample(brokers, min(_REACHED_MAX, len(brokers)))
        reaching = [asyncio.create_task(self.unreached(each, timeout_s)) for each in asked]
        try:
            error = None
            for each in asyncio.as_completed(reaching):
                error = await each
                if error is None:
                    break
            return error
        finally:
            for task in reaching:
                task.cancel()
            await asyncio.gather(*reaching, return_exceptions=True)

    @asynccontextmanager
    async def _connected(self, host: str, port: int) -> AsyncIterator[AIOKafkaConnection]:
        options = self.client_options()
        del options["bootstrap_servers"]
        conn = await create_conn(host, port, **options)
        try:
            yield conn
        finally:
            await conn.close()
