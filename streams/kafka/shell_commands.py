"""Topics and rights as commands of Kafka's own tools, for people who may not create them.

This is pure text: nothing here connects to a broker.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from contracts.topics import TARGETS, Names, TopicSpec
from streams.topics.admin import TopicDifference


@dataclass(frozen=True, slots=True)
class Principals:
    """The users as which the roles log in."""

    publisher: str = "User:publisher"
    encoder: str = "User:encoder"
    index: str = "User:index"
    gateway: str = "User:gateway"
    operator: str = "User:operator"

    @classmethod
    def roles(cls) -> list[str]:
        return [field.name for field in fields(cls)]


def kafka_topics_commands(
    specs: Iterable[TopicSpec],
    brokers: str,
    *,
    replication_factor: int,
    command_config: str | None = None,
) -> list[str]:
    """Return one `kafka-topics.sh --create` for each topic."""
    return [
        _command(
            "kafka-topics.sh",
            brokers,
            command_config,
            ["--create", "--if-not-exists", "--topic", spec.name],
            ["--partitions", str(spec.partitions)],
            ["--replication-factor", str(replication_factor)],
            *(["--config", f"{setting}={value}"] for setting, value in spec.config.items()),
        )
        for spec in specs
    ]


def kafka_configs_commands(
    differences: Iterable[TopicDifference], brokers: str, *, command_config: str | None = None
) -> list[str]:
    """Return a `kafka-configs.sh --alter` for each setting that differs and can be changed."""
    return [
        _command(
            "kafka-configs.sh",
            brokers,
            command_config,
            ["--alter", "--topic", difference.topic],
            ["--add-config", f"{difference.setting}={_bracketed(difference.want)}"],
        )
        for difference in differences
        if difference.have is not None and difference.setting != "partitions"
    ]


def kafka_acls_commands(
    names: Names,
    brokers: str,
    principals: Principals,
    *,
    command_config: str | None = None,
) -> Mapping[str, list[str]]:
    """Return for each role the `kafka-acls.sh` commands that grant exactly what it needs."""
    contents = [names.content(target) for target in TARGETS]
    embeddings = [names.embeddings(target) for target in TARGETS]
    transactions = f"{names.bare}.{names.space}."
    index_groups = f"{names.bare}.index.{names.space}."
    streams_groups = f"{names.bare}.streams.{names.space}."  # Faust's, one a node

    def allow(principal: str, operations: Sequence[str], *resource: str) -> str:
        return _command(
            "kafka-acls.sh",
            brokers,
            command_config,
            ["--add", "--allow-principal", principal],
            *(["--operation", operation] for operation in operations),
            list(resource),
        )

    def topics(operations: Sequence[str], who: str, *which: str) -> str:
        return allow(who, operations, *(part for topic in which for part in ("--topic", topic)))

    publisher, encoder, index, gateway, operator = (
        principals.publisher,
        principals.encoder,
        principals.index,
        principals.gateway,
        principals.operator,
    )
    read, write, both = ["Read", "Describe"], ["Write", "Describe"], ["Read", "Write", "Describe"]
    prefixed = ("--resource-pattern-type", "prefixed")

    def encoding(who: str) -> list[str]:
        return [
            topics(read, who, *contents, names.control),
            topics(both, who, *embeddings),
            topics(write, who, names.dead_letters),
            # For how long tombstones stay: without it nobody knows what was missed while away.
            topics(["DescribeConfigs"], who, *contents),
            allow(who, write, "--transactional-id", transactions, *prefixed),
            allow(who, ["IdempotentWrite"], "--cluster"),
            allow(who, read, "--group", names.encoder_group),
            # Its /metrics show the lag of index nodes too: of those groups that it may see.
            allow(who, ["Describe"], "--group", index_groups, *prefixed),
            # The members of these groups show which index nodes run.
            allow(who, ["Describe"], "--group", streams_groups, *prefixed),
        ]

    return {
        "publisher": [
            topics(write, publisher, *contents),
            # It holds the partition counts that the topics were made with.
            topics(read, publisher, names.control),
            # Needed by brokers before 3.0; later ones take Write on the topic for it.
            allow(publisher, ["IdempotentWrite"], "--cluster"),
        ],
        "encoder": encoding(encoder),
        "index": [
            topics(read, index, *embeddings, names.dead_letters, names.control),
            # Pictures are read back by their source, and lag by the oldest record still to come.
            topics(read, index, *contents),
            topics(["DescribeConfigs"], index, *embeddings),
            allow(index, read, "--group", index_groups, *prefixed),
            allow(index, read, "--group", streams_groups, *prefixed),
            allow(index, ["Describe"], "--group", names.encoder_group),
        ],
        "gateway": [
            topics(both, gateway, *contents),
            topics(read, gateway, *embeddings, names.dead_letters, names.control),
            allow(gateway, ["IdempotentWrite"], "--cluster"),
            allow(gateway, ["Describe"], "--group", names.encoder_group),
            allow(gateway, ["Describe"], "--group", index_groups, *prefixed),
            allow(gateway, ["Describe"], "--group", streams_groups, *prefixed),
        ],
        # Makes this space beside another one (`tidelens space`), and switches between them; tries
        # dead letters again; deletes the groups of retired nodes (`tidelens lag --forget`).
        "operator": [
            *encoding(operator),
            topics(both, operator, *contents, names.dead_letters, names.control),
            allow(operator, read, "--topic", f"{names.prefix}embeddings.", *prefixed),
            allow(operator, ["Describe", "Delete"], "--group", f"{names.bare}.", *prefixed),
        ],
    }


def _command(tool: str, brokers: str, command_config: str | None, *arguments: Sequence[str]) -> str:
    words = [tool, "--bootstrap-server", brokers]
    if command_config is not None:
        words += ["--command-config", command_config]
    for group in arguments:
        words += group
    return shlex.join(words)


def _bracketed(value: str) -> str:
    """Put a value in brackets, since kafka-configs.sh splits it at commas otherwise."""
    return f"[{value}]" if "," in value else value
