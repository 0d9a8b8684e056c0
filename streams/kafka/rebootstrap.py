"""The aiokafka client that finds its brokers again, and knows which of them it cannot reach.

aiokafka 0.14 asks where the brokers are only at addresses that brokers named before. Brokers that
came back at other addresses, as pods do, were never found again, though the bootstrap name led to
them. Kafka's own clients go back to the bootstrap addresses (KIP-899), and so does this one.

| what happens | what this client does |
|---|---|
| no known broker says where all are | asks the bootstrap addresses, their names resolved again |
| nor does a bootstrap address | asks again, after pauses that double up to five seconds |
| a broker is at another address than before | closes the connections to the former one |
| a broker takes no connection | remembers why, and tries it again after the same pauses |
| an address swallows packets | gives the connecting up after ten seconds, where it was forty |

Importing this module puts it into aiokafka's consumer, producer and admin client, and so into
Faust's too, since all of them make their client themselves.
"""

import asyncio
import time
import weakref
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog
from aiokafka import client as aiokafka_client
from aiokafka.admin import client as admin
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, CloseReason, collect_hosts
from aiokafka.consumer import consumer
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError
from aiokafka.producer import producer
from aiokafka.protocol.metadata import MetadataRequest

log = structlog.get_logger(__name__)

# Kafka's socket.connection.setup.timeout.ms.
CONNECT_S = 10.0
PAUSE_MIN_S = 0.25
PAUSE_MAX_S = 5.0

# An impossible host name raises UnicodeError.
FAILURES = (OSError, TimeoutError, UnicodeError, KafkaError)


class BrokerUnreached(NodeNotReadyError):  # type: ignore[misc, unused-ignore]
    """A broker accepts no connection at the address that it advertises; `cause` says why."""

    def __init__(self, node_id: int, host: str, port: int, cause: BaseException) -> None:
        super().__init__(node_id, host, port, cause)
        self.node_id, self.host, self.port, self.cause = node_id, host, port, cause


@dataclass(slots=True)
class _ConnectFailure:
    """The reason for which a broker accepted no connection the last time, and since when."""

    error: BrokerUnreached
    since: float
    tried: float


class RebootstrappingClient(AIOKafkaClient):  # type: ignore[misc, unused-ignore]
    """The client through which all consumers, producers and admin clients of this process send.

    Connecting to an address is given up after `connect_s`. The pauses between attempts double from
    `pause_min_s` up to `pause_max_s`. All are in seconds, and `options` are those of aiokafka.
    """

    # Kept by id and read as a whole, since Faust's consumer has its client in a thread of its own.
    _all: ClassVar["weakref.WeakValueDictionary[int, RebootstrappingClient]"] = (
        weakref.WeakValueDictionary()
    )

    def __init__(
        self,
        *,
        connect_s: float = CONNECT_S,
        pause_min_s: float = PAUSE_MIN_S,
        pause_max_s: float = PAUSE_MAX_S,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._connect_s = connect_s
        self._pause_min_s = pause_min_s
        self._pause_max_s = pause_max_s
        self._addresses = _addresses(self._bootstrap_servers)
        self._age_ms: float = self._metadata_max_age_ms
        self._pause_s = pause_min_s
        self._connecting: defaultdict[Any, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._is_closed = False
        self._asked_bootstrap = -pause_max_s
        # Kept by broker and group: one connection may be refused while another one is open.
        self._failing: dict[tuple[Any, ConnectionGroup], _ConnectFailure] = {}
        self._lost: tuple[float, BaseException] | None = None
        self._all[id(self)] = self

    @classmethod
    def install(cls) -> None:
        """Make aiokafka's consumer, producer and admin client use this client."""
        for module in (consumer, producer, admin):
            module.AIOKafkaClient = cls

    @classmethod
    def unreached_reason(cls, bootstrap_servers: str, *, for_s: float = 0) -> BaseException | None:
        """Return why a client has not reached one of these brokers for that long, or None.

        While even the bootstrap addresses do not answer, nothing is known about the others.
        """
        latest = time.monotonic() - for_s
        found = [client.failure(latest) for client in cls._of(bootstrap_servers)]
        errors = [error for error in found if error is not None]
        lost = (error for error in errors if not isinstance(error, BrokerUnreached))
        return next(lost, next(iter(errors), None))

    @classmethod
    async def try_again(cls, bootstrap_servers: str, *, within_s: float) -> None:
        """Let this loop's clients that miss one of these brokers connect at once, and wait for
        that.
        """
        loop = asyncio.get_running_loop()
        trying = [
            client._retry_now()
            for client in cls._of(bootstrap_servers)
            if client._loop is loop and client._sync_task and client.failure(time.monotonic())
        ]
        if trying:
            await asyncio.wait(trying, timeout=within_s)

    @classmethod
    def _of(cls, bootstrap_servers: str) -> "list[RebootstrappingClient]":
        wanted = _addresses(bootstrap_servers)
        clients = [client for ref in cls._all.valuerefs() if (client := ref()) is not None]
        return [client for client in clients if client._addresses == wanted]

    def _retry_now(self) -> "asyncio.Future[bool]":
        self._asked_bootstrap = -self._pause_max_s
        for failing in self._failing.values():
            failing.tried = -self._pause_max_s
        updating: asyncio.Future[bool] = self.force_metadata_update()
        return updating

    def failure(self, latest: float) -> BaseException | None:
        """Return what this client has not reached since `latest`."""
        failing = list(self._failing.values())
        since = [each.since for each in failing]
        if self._lost is not None:
            return self._lost[1] if min([self._lost[0], *since]) <= latest else None
        return next((each.error for each in failing if each.since <= latest), None)

    async def close(self) -> None:
        self._is_closed = True
        self._all.pop(id(self), None)
        await super().close()

    async def until_connected(self) -> None:
        """Return once everything has ended that was connecting when this was called."""
        for lock in list(self._connecting.values()):
            async with lock:
                pass

    async def send(
        self, node_id: int, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT
    ) -> Any:
        """Send as aiokafka does; raise BrokerUnreached where it only names the broker's number."""
        try:
            return await super().send(node_id, request, group=group)
        except NodeNotReadyError as error:
            failing = self._failing.get((node_id, group))
            if failing is None:
                raise
            # Make a new error each time, since one that is raised again keeps all frames it passed.
            raise BrokerUnreached(*failing.error.args) from error

    async def _metadata_update(self, cluster_metadata: ClusterMetadata, topics: Any) -> bool:
        updated = await super()._metadata_update(cluster_metadata, topics)
        if not updated:
            updated = await self._rebootstrap(cluster_metadata, topics)
        if updated:
            self._lost = None
            await self._try_failing()
        self._pace()
        return bool(updated)

    async def _rebootstrap(self, cluster_metadata: ClusterMetadata, topics: Any) -> bool:
        """Return whether a bootstrap address said where the brokers are."""
        since_s = time.monotonic() - self._asked_bootstrap
        if self._sync_task is None or since_s < self._pause_s:
            return False
        self._asked_bootstrap = time.monotonic()
        error: BaseException = KafkaConnectionError("the cluster names no broker")
        for host, port, _ in self.hosts:
            try:
                metadata = await self._ask(host, port, topics)
            except FAILURES as failure:
                error = failure
                continue
            if metadata.brokers:
                cluster_metadata.update_metadata(metadata)
                self._leave_moved()
                return True
        self._lost = (self._lost[0] if self._lost else time.monotonic(), error)
        self._pause_s = min(self._pause_max_s, 2 * self._pause_s)
        return False

    async def _ask(self, host: str, port: int, topics: Collection[str]) -> Any:
        connection = await self._connect(host, port)
        try:
            return await connection.send(MetadataRequest(list(topics) if topics else None))
        finally:
            connection.close()

    def _leave_moved(self) -> None:
        """Close connections to addresses that brokers have left; these may only look alive."""
        for known, connection in list(self._conns.items()):
            broker = self.cluster.broker_metadata(known[0])
            if broker is None or (broker.host, broker.port) == (connection.host, connection.port):
                continue
            del self._conns[known]
            connection.close(reason=CloseReason.OUT_OF_SYNC)
            log.info("a broker has moved", broker=known[0], host=broker.host, port=broker.port)

    async def _try_failing(self) -> None:
        """Connect again to brokers that have moved, or that nobody has tried for a while.

        An idle client would try none, and a broker that has left the cluster is not tried again.
        """
        for known, failing in list(self._failing.items()):
            node_id, group = known
            broker = self.cluster.broker_metadata(node_id)
            if broker is None:
                self._failing.pop(known, None)
                continue
            moved = (broker.host, broker.port) != (failing.error.host, failing.error.port)
            if not moved and time.monotonic() - failing.tried < self._pause_s:
                continue
            if await self._get_conn(node_id, group=group) is None:
                self._pause_s = min(self._pause_max_s, 2 * self._pause_s)

    def _pace(self) -> None:
        """Let aiokafka's task ask for metadata again soon, while anything is out of reach."""
        if self._lost is None and not self._failing:
            self._metadata_max_age_ms, self._pause_s = self._age_ms, self._pause_min_s
        else:
            self._metadata_max_age_ms = min(self._age_ms, 1000 * self._pause_s)

    async def _get_conn(
        self,
        node_id: Any,
        *,
        group: ConnectionGroup = ConnectionGroup.DEFAULT,
        no_hint: bool = False,
    ) -> AIOKafkaConnection | None:
        """Return the connection to a broker, made if there is none, or None if it accepts none."""
        known = (node_id, group)
        connection = self._conns.get(known)
        if connection is not None:
            if connection.connected():
                return connection
            del self._conns[known]
        broker = self.cluster.broker_metadata(node_id)
        if broker is None:
            self.force_metadata_update()
            return None
        try:
            # One lock for each broker: one that is silent would hold up connections to the others.
            async with self._connecting[node_id]:
                if known not in self._conns:
                    connection = await self._connect(
                        broker.host, broker.port, on_close=self._on_connection_closed
                    )
                    if self._is_closed:
                        connection.close()
                        return None
                    self._conns[known] = connection
        except FAILURES as error:
            self._failed(known, BrokerUnreached(node_id, broker.host, broker.port, error))
            self.force_metadata_update()
            return None
        self._failing.pop(known, None)
        return self._conns[known]

    def _failed(self, known: tuple[Any, ConnectionGroup], error: BrokerUnreached) -> None:
        now = time.monotonic()
        before = self._failing.get(known)
        self._failing[known] = _ConnectFailure(error, before.since if before else now, now)

    async def _connect(self, host: str, port: int, **more: Any) -> AIOKafkaConnection:
        """Connect as aiokafka does, but within our own bound."""
        async with asyncio.timeout(self._connect_s):
            return await aiokafka_client.create_conn(
                host,
                port,
                client_id=self._client_id,
                request_timeout_ms=self._request_timeout_ms,
                ssl_context=self._ssl_context,
                security_protocol=self._security_protocol,
                max_idle_ms=self._connections_max_idle_ms,
                sasl_mechanism=self._sasl_mechanism,
                sasl_plain_username=self._sasl_plain_username,
                sasl_plain_password=self._sasl_plain_password,
                sasl_kerberos_service_name=self._sasl_kerberos_service_name,
                sasl_kerberos_domain_name=self._sasl_kerberos_domain_name,
                sasl_oauth_token_provider=self._sasl_oauth_token_provider,
                **more,
            )


def _addresses(bootstrap_servers: Any) -> frozenset[tuple[str, int]]:
    return frozenset((host, port) for host, port, _ in collect_hosts(bootstrap_servers, False))


RebootstrappingClient.install()
