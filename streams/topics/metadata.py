"""The broker's description of a topic: its id and partition count, by one Metadata v10 request.

A topic that was deleted and created again has the same name and other records; only the id shows
it. aiokafka 0.14 stops at Metadata v5, and ids came with v10 (Kafka 2.8), hence the structs here.
The request also says "do not create": aiokafka's own metadata request would create a missing topic
on a broker that creates topics on its own.
"""

import asyncio
import base64
import contextlib
import random
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from contracts.errors import BrokerUnavailable, TopicAbsent, TopicMismatch

_UNKNOWN_TOPIC = 3
_LEADER_NOT_AVAILABLE = 5
_TOPIC_AUTHORIZATION_FAILED = 29

_TRIES = 20
_RETRY_S = 0.1
_NODES_MAX = 3


class TopicDescription(NamedTuple):
    """One topic as the broker describes it."""

    id: str
    partitions: int
    replication_factor: int
    # Our rights on it: a bit for each of Kafka's ACL operations by its number; 0 when not asked.
    rights: int = 0


class _Uuid(AbstractType[bytes]):  # type: ignore[misc, unused-ignore]
    """Sixteen bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


_NO_ID = bytes(16)
_TEXT = CompactString("utf-8")


class _MetadataResponse(Response):  # type: ignore[misc, unused-ignore]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", _TEXT),
                ("port", Int32),
                ("rack", _TEXT),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc, unused-ignore]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _TEXT), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestStruct]):  # type: ignore[misc, unused-ignore]
    API_KEY = 3

    def __init__(self, topics: list[str], *, rights: bool) -> None:
        self._topics = topics
        self._rights = rights

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> Any:
        named: list[Any] = [(_NO_ID, topic, {}) for topic in self._topics]
        return request_struct_class(named, False, False, self._rights, {})


async def topic_ids(client: AIOKafkaClient, topics: Iterable[str]) -> dict[str, str]:
    """Return the id of each topic, as Kafka's tools print it. Raises TopicMismatch for an absent
    one.
    """
    found = await describe_topics(client, topics)
    return {name: topic.id for name, topic in found.items()}


async def describe_topics(
    client: AIOKafkaClient,
    topics: Iterable[str],
    *,
    absent_ok: bool = False,
    rights: bool = False,
) -> dict[str, TopicDescription]:
    """Return what the broker says about each topic; absent ones are left out when `absent_ok`.

    The broker looks at its ACLs for each operation, so rights are only asked for on demand.
    """
    wanted = sorted(set(topics))
    for _ in range(_TRIES):
        answers = await _ask(client, wanted, rights=rights)
        # A topic created this instant has no leader yet.
        if all(topic[0] != _LEADER_NOT_AVAILABLE for topic in answers):
            break
        await asyncio.sleep(_RETRY_S)
    found = {}
    for code, name, topic_id, _, partitions, allowed, _ in answers:
        if code == _UNKNOWN_TOPIC:
            if absent_ok:
                continue
            raise topic_absent(name)
        if code == _TOPIC_AUTHORIZATION_FAILED:
            raise TopicMismatch(
                f"topic {name}: we may not describe it; `tidelens topics print` shows the ACLs"
            )
        if code not in (0, _LEADER_NOT_AVAILABLE):
            raise TopicMismatch(f"topic {name}: the broker answers error {code}")
        replicas = [len(partition[4]) for partition in partitions]
        found[name] = TopicDescription(
            topic_id_text(topic_id), len(partitions), min(replicas, default=0), max(0, allowed)
        )
    return found


def topic_absent(name: str) -> TopicAbsent:
    """Make the error for a topic that does not exist."""
    return TopicAbsent(
        f"topic {name} does not exist; `tidelens topics create` makes it, "
        "`tidelens topics print` shows the commands"
    )


def topic_id_text(topic_id: bytes) -> str:
    """Format a topic id as Kafka's tools print it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(topic_id).decode().rstrip("=")


async def _ask(client: AIOKafkaClient, topics: list[str], *, rights: bool) -> list[tuple[Any, ...]]:
    if not topics:
        return []  # an empty list would mean every topic of the cluster
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    if not nodes:
        raise BrokerUnavailable("the Kafka cluster names no broker")
    asked = random.sample(nodes, min(len(nodes), _NODES_MAX))
    response = await _send(client, asked, _MetadataRequest(topics, rights=rights))
    return list(response.topics)


async def _send(client: AIOKafkaClient, nodes: Sequence[int], request: _MetadataRequest) -> Any:
    """Send the request to the first of `nodes` that answers: one broker of several may be down."""
    *others, last = nodes
    try:
        for node in others:
            with contextlib.suppress(KafkaConnectionError, NodeNotReadyError, RequestTimedOutError):
                return await client.send(node, request)
        return await client.send(last, request)
    except (IncompatibleBrokerVersion, NotImplementedError):
        raise BrokerUnavailable("this Kafka is older than 2.8 and has no topic ids") from None
