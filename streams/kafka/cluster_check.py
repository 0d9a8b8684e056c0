"""A trial of what roles do with a cluster before and beside their work, without writing anything.

`KafkaConnection.require_reachable` is for a start, where one reached broker is enough. Here every
part is tried, so that one which would fail hours later is named now. Nothing joins a group, and no
transactional id is initialised, since that would take partitions or fence a role that is at work.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import CoordinatorNotAvailableError, KafkaError

from contracts.errors import BrokerUnavailable, TopicMismatch
from contracts.events.record import TopicPartition
from contracts.partitioner import partitioner
from contracts.topics import TARGETS, Names
from streams.groups.coordinator import ask_coordinator
from streams.kafka.connection import CHECK_S, AdvertisedBroker, KafkaConnection
from streams.kafka.connection_errors import AWAY, FORBIDDEN, connect_advice, connect_failure
from streams.kafka.event_log import KafkaEventLog
from streams.kafka.rebootstrap import FAILURES
from streams.topics.metadata import TopicDescription, describe_topics

# Kafka's numbers for ACL operations.
_OPERATIONS = {"Read": 3, "Write": 4, "DescribeConfigs": 10}
_CONNECTING_MAX = 16
_FETCH_MS = 600
_FETCHES = 5
_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class OperationResult:
    """The result for one part: what was done, or what failed and why, then what to do.

    The two are separated by a semicolon. `missing` is a warning, since only some roles need that
    part, or one of several is enough.
    """

    done: str = ""
    failure: str = ""
    missing: str = ""


async def try_operations(
    connection: KafkaConnection, names: Names | None, *, shard: str, replica: str
) -> list[OperationResult]:
    """Try one part after the other, up to the first without which the others cannot work.

    `names` is None while there is no model to name groups and topics. Raises BrokerUnavailable.
    """
    named, silent = await _named(connection)
    reached = [*silent, *await _reached(connection, named)]
    if names is None or any(each.failure for each in reached):
        return reached
    async with connection.client() as client, connection.errors_translated():
        lookups = [
            _coordinator(connection, client, kind, key)
            for kind, key in _coordinated(names, shard, replica)
        ]
        coordinators = await asyncio.gather(*lookups)
        try:
            found = await describe_topics(
                client, required_operations(names), absent_ok=True, rights=True
            )
        except TopicMismatch as error:
            return [*reached, *_merged(coordinators), OperationResult(missing=str(error))]
    fetched = await _fetched(connection, found)
    return [*reached, *_merged(coordinators), *_rights(names, found), fetched]


def required_operations(names: Names) -> Mapping[str, Mapping[str, str]]:
    """Return the operations needed on each topic, each with the roles that need it."""
    return {
        **{
            names.content(target): {
                "Read": "encode and index",
                "Write": "publishing",
                "DescribeConfigs": "encode",
            }
            for target in TARGETS
        },
        **{
            names.embeddings(target): {
                "Read": "encode and index",
                "Write": "encode",
                "DescribeConfigs": "index",
            }
            for target in TARGETS
        },
        names.dead_letters: {"Read": "index", "Write": "encode"},
        names.control: {"Read": "encode and index", "Write": "space"},
    }


async def _named(
    connection: KafkaConnection,
) -> tuple[list[AdvertisedBroker], list[OperationResult]]:
    """Return every broker that a bootstrap address names, and the addresses that do not answer.

    Raises BrokerUnavailable where none does.
    """

    async def ask(host: str, port: int) -> list[AdvertisedBroker] | BaseException:
        try:
            async with asyncio.timeout(CHECK_S):
                return await connection.advertised_brokers(host, port)
        except FAILURES as error:
            return error

    addresses = connection.addresses()
    answers = await asyncio.gather(*(ask(*address) for address in addresses))
    named = {
        each.node_id: each for answer in answers if isinstance(answer, list) for each in answer
    }
    if not named:
        await connection.require_reachable()
        raise BrokerUnavailable(
            f"Kafka at {connection.brokers} names no broker yet; try again in a moment"
        )
    silent = [
        OperationResult(
            missing=f"the bootstrap address {host}:{port} does not answer "
            f"({connect_failure(answer)}), but another one does; take it out of --brokers, or "
            "start the broker there"
        )
        for (host, port), answer in zip(addresses, answers, strict=True)
        if isinstance(answer, BaseException)
    ]
    return list(named.values()), silent


async def _reached(
    connection: KafkaConnection, brokers: Collection[AdvertisedBroker]
) -> list[OperationResult]:
    at_once = asyncio.Semaphore(_CONNECTING_MAX)

    async def reach(broker: AdvertisedBroker) -> OperationResult | None:
        async with at_once:
            error = await connection.unreached(broker)
        if error is None:
            return None
        return OperationResult(failure=connect_advice(error, connection.brokers, connection.kafka))

    failures = [each for each in await asyncio.gather(*map(reach, brokers)) if each is not None]
    addresses = [f"{broker.host}:{broker.port}" for broker in brokers][:_NAMED_MAX]
    return failures or [
        OperationResult(f"{len(brokers)} reached as advertised: {', '.join(addresses)}")
    ]


def _coordinated(names: Names, shard: str, replica: str) -> list[tuple[CoordinationType, str]]:
    groups = (
        names.encoder_group,
        names.index_group(shard, replica),
        names.streams_app_id(shard, replica),
    )
    transactions = [names.transactional_id(target, 0) for target in TARGETS]
    return [
        *((CoordinationType.GROUP, group) for group in groups),
        *((CoordinationType.TRANSACTION, each) for each in transactions),
    ]


async def _coordinator(
    connection: KafkaConnection, client: AIOKafkaClient, kind: CoordinationType, key: str
) -> OperationResult:
    """Ask for the coordinator only: to join or to initialise would disturb a role at work."""
    of_group = kind is CoordinationType.GROUP
    what = f"group {key}" if of_group else f"transactional id {key}"
    try:
        await ask_coordinator(lambda: client.coordinator_lookup(kind, key))
    except FORBIDDEN:
        acls = "`tidelens topics print` shows the ACLs of the role that needs it"
        return OperationResult(missing=f"we may not describe {what}; {acls}")
    except CoordinatorNotAvailableError:
        topic = "__consumer_offsets" if of_group else "__transaction_state"
        setting = "offsets.topic" if of_group else "transaction.state.log"
        return OperationResult(
            failure=f"no broker coordinates {what}: the cluster has no {topic}, or no leader for "
            f"it; {setting}.replication.factor must not exceed the number of brokers"
        )
    except AWAY as error:
        return OperationResult(failure=connect_advice(error, connection.brokers, connection.kafka))
    except KafkaError as error:
        return OperationResult(
            failure=f"no coordinator for {what}: {error!r}; look into the broker's log"
        )
    return OperationResult(done=what)


def _merged(coordinators: Collection[OperationResult]) -> list[OperationResult]:
    """Return one line if all were found, or the lines of those that were not."""
    well = OperationResult(f"coordinators of {len(coordinators)} groups and transactions found")
    return [each for each in coordinators if not each.done] or [well]


def _rights(names: Names, found: Mapping[str, TopicDescription]) -> list[OperationResult]:
    """Return what we may not do with existing topics, as the broker itself says."""
    missing = [
        OperationResult(
            missing=f"we may not {operation} {topic}, which {who} needs; `tidelens topics print` "
            "shows the ACLs of each role"
        )
        for topic, needed in required_operations(names).items()
        for operation, who in needed.items()
        if topic in found and not found[topic].rights >> _OPERATIONS[operation] & 1
    ]
    return missing or [OperationResult(f"all rights on {len(found)} topics that roles need")]


async def _fetched(
    connection: KafkaConnection, found: Mapping[str, TopicDescription]
) -> OperationResult:
    """Fetch once from the end of each partition, whose leader must answer."""
    readable = [name for name, topic in found.items() if topic.rights >> _OPERATIONS["Read"] & 1]
    partitions = [
        TopicPartition(name, number)
        for name in readable
        for number in range(found[name].partitions)
    ]
    if not partitions:
        return OperationResult("no topic to fetch from yet")
    async with KafkaEventLog.open(
        connection, partition_of=partitioner("murmur2"), record_bytes_max=1
    ) as log:
        reader = await log.tail(await log.end_offsets(partitions))
        try:
            silent = set(partitions)
            for _ in range(_FETCHES):
                async with connection.errors_translated():
                    fetched = await reader.fetch(records_max=1, timeout_ms=_FETCH_MS)
                silent -= fetched.caught_up_at.keys() | fetched.records.keys()
                if not silent:
                    return OperationResult(f"a fetch of {len(partitions)} partitions was answered")
        finally:
            await reader.close()
    names = ", ".join(f"{each.topic}-{each.partition}" for each in sorted(silent)[:_NAMED_MAX])
    return OperationResult(
        failure=f"no answer to a fetch of {len(silent)} of {len(partitions)} partitions ({names}); "
        "`kafka-topics.sh --describe --unavailable-partitions` shows those without a leader"
    )
