"""Creation of topics as contracts.topics describes them, and the differences of existing ones.

A partition count is fixed at creation: an id lives in one partition, so another count would put its
next event elsewhere, beside the old one. A count that differs from the wanted one is refused with
both numbers; partitions that were added later are ignored (streams/topics/partition_counts.py). Any
other difference is reported and not repaired, since the cluster's operator may have had a reason.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.errors import TopicMismatch
from contracts.topics import TopicSpec
from streams.kafka.connection import KafkaConnection
from streams.topics.metadata import TopicDescription, describe_topics

_ALREADY_EXISTS = 36
_NOT_ALLOWED = (29, 31)  # topic, cluster authorization failed
_KNOWN_S = 15.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class ExistingTopic:
    """One topic as it is on the broker."""

    name: str
    id: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicDifference:
    """One setting of a topic that is not as wanted; `have` is None if the topic is absent."""

    topic: str
    setting: str
    want: str
    have: str | None

    def __str__(self) -> str:
        if self.have is None:
            return f"{self.topic}: does not exist"
        return f"{self.topic}: {self.setting} is {self.have}, want {self.want}"


@dataclass(frozen=True, slots=True)
class CreationResult:
    """The topics that `create_topics` has created, and what differs on those that existed."""

    created: Sequence[str]
    differences: Sequence[TopicDifference]


def with_replication(specs: Sequence[TopicSpec], min_insync_replicas: int) -> list[TopicSpec]:
    """Return the specs with min.insync.replicas in each."""
    return [
        replace(spec, config={**spec.config, "min.insync.replicas": str(min_insync_replicas)})
        for spec in specs
    ]


def topic_differences(
    specs: Sequence[TopicSpec], topics: Mapping[str, ExistingTopic]
) -> list[TopicDifference]:
    """Return what is not as `specs` want it, partitions first; settings that no spec names are
    free.
    """
    found = []
    for spec in specs:
        topic = topics.get(spec.name)
        if topic is None:
            found.append(TopicDifference(spec.name, "topic", "exists", None))
            continue
        if topic.partitions != spec.partitions:
            found.append(
                TopicDifference(
                    spec.name, "partitions", str(spec.partitions), str(topic.partitions)
                )
            )
        for setting, want in spec.config.items():
            have = topic.config.get(setting, "unknown")
            if _normal(setting, have) != _normal(setting, want):
                found.append(TopicDifference(spec.name, setting, want, have))
    return found


def require_partitions(specs: Sequence[TopicSpec], counts: Mapping[str, int]) -> None:
    """Raise TopicMismatch for the first existing topic whose count is another, with both."""
    there = {spec.name: counts[spec.name] for spec in specs if spec.name in counts}
    for spec in specs:
        have = there.get(spec.name, spec.partitions)
        if have == spec.partitions:
            continue
        wrong = f"topic {spec.name} has {have} partitions, {spec.partitions} are wanted"
        if len(set(there.values())) > 1:
            shown = ", ".join(f"{name}: {count}" for name, count in there.items())
            raise TopicMismatch(
                f"{wrong}, and no TIDELENS_PARTITIONS fits all topics ({shown}): start under "
                "another --topic-prefix, and publish everything again there"
            )
        raise TopicMismatch(
            f"{wrong} (TIDELENS_PARTITIONS): a partition count is fixed at creation; set "
            f"TIDELENS_PARTITIONS={have}, or start under another --topic-prefix, and publish "
            "everything again there"
        )


async def find_topics(
    connection: KafkaConnection, names: Collection[str]
) -> dict[str, TopicDescription]:
    """Return those of `names` that exist, as the broker describes them."""
    async with connection.client() as client:
        return await describe_topics(client, names, absent_ok=True)


async def read_topics(
    connection: KafkaConnection, names: Sequence[str]
) -> dict[str, ExistingTopic]:
    """Return those of `names` that exist, with all their settings."""
    found = await find_topics(connection, names)
    if not found:
        return {}
    async with connection.admin() as admin:
        configs = await topic_configs(admin, list(found))
    return {
        name: ExistingTopic(
            name, topic.id, topic.partitions, topic.replication_factor, configs[name]
        )
        for name, topic in found.items()
    }


async def create_topics(
    connection: KafkaConnection,
    specs: Sequence[TopicSpec],
    *,
    replication_factor: int,
    min_insync_replicas: int,
    counts: Mapping[str, int] | None = None,
) -> CreationResult:
    """Create what is absent; calling it twice, or twice at once, changes nothing more.

    `counts` are the known partition counts with which existing topics were created. Raises
    TopicMismatch for a wrong count before anything is created, and when the broker refuses.
    """
    wanted = with_replication(specs, min_insync_replicas)
    async with connection.client() as client:
        there = await describe_topics(client, [spec.name for spec in specs], absent_ok=True)
    made = counts or {}
    require_partitions(specs, {**_partitions(there), **made})
    missing = [spec for spec in wanted if spec.name not in there]
    created = await _create(connection, missing, replication_factor) if missing else []
    await _until_known(connection, created)
    topics = await read_topics(connection, [spec.name for spec in specs])
    require_partitions(specs, {**_partitions(topics), **made})
    return CreationResult(created, topic_differences(wanted, topics))


async def _create(
    connection: KafkaConnection, specs: Sequence[TopicSpec], replication_factor: int
) -> list[str]:
    new = [
        NewTopic(spec.name, spec.partitions, replication_factor, topic_configs=dict(spec.config))
        for spec in specs
    ]
    async with connection.admin() as admin:
        response = await admin.create_topics(new, timeout_ms=10_000)
    created = []
    for name, code, message in response.topic_errors:
        if code == 0:
            created.append(name)
        elif code in _NOT_ALLOWED:
            raise TopicMismatch(
                f"topic {name}: we may not create it; `tidelens topics print` shows the commands "
                "for whoever may"
            )
        elif code != _ALREADY_EXISTS:  # another process was quicker: fine
            raise TopicMismatch(f"topic {name}: the broker does not create it: {message}")
    return created


async def _until_known(connection: KafkaConnection, names: Sequence[str]) -> None:
    """Wait until a broker knows what the controller has created: a busy one takes a while.

    It waits for `_KNOWN_S` at most, since another broker may be asked next.
    """
    if not names:
        return
    async with connection.client() as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(_KNOWN_S):
                while len(await describe_topics(client, names, absent_ok=True)) < len(names):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)


async def topic_configs(
    admin: AIOKafkaAdminClient, names: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return the settings of topics, without those of topics that may not be described."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for _, _, _, name, entries in response.resources:
            # Without the right to describe settings, they come back as an error and stay unknown.
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def delete_retention_s(connection: KafkaConnection, names: Iterable[str]) -> float:
    """Return for how many seconds at least tombstones stay in all topics; infinite if unknown."""
    return await _shortest_s(connection, names, "delete.retention.ms")


async def compaction_lag_s(connection: KafkaConnection, names: Iterable[str]) -> float:
    """Return for how many seconds at least records stay in all topics; infinite if unknown."""
    return await _shortest_s(connection, names, "min.compaction.lag.ms")


async def _shortest_s(connection: KafkaConnection, names: Iterable[str], setting_ms: str) -> float:
    async with connection.admin() as admin:
        found = await topic_configs(admin, list(names))
    settings = [config.get(setting_ms) for config in found.values()]
    known = [float(setting) for setting in settings if setting is not None]
    return min(known, default=float("inf")) / 1000


def _partitions(topics: Mapping[str, ExistingTopic | TopicDescription]) -> dict[str, int]:
    return {name: topic.partitions for name, topic in topics.items()}


def _normal(setting: str, value: str) -> object:
    """Sort a policy's words: `compact,delete` and `delete,compact` are the same policy."""
    return frozenset(value.split(",")) if setting == "cleanup.policy" else value
