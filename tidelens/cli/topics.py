"""`tidelens topics`: creates, describes or prints the Kafka topics."""

import asyncio
import sys
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Example, Group
from tidelens.cli.base.options import (
    Option,
    collection_options,
    in_order,
    json_option,
    model_option,
)
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.settings import Settings
    from contracts.topics import Names, TopicSpec
    from streams.kafka.connection import KafkaConnection
    from streams.topics.admin import TopicDifference
    from tidelens.cli.base.collection_choice import CommandContext


@click.group(
    cls=Group,
    examples=[
        Example("tidelens topics create", "Create the topics that are missing."),
        Example("tidelens topics describe", "Show the topics, and how they differ from the plan."),
    ],
)
def topics() -> None:
    """Create, describe or print the Kafka topics."""


_plan_options = in_order(
    model_option,
    click.option(
        "--partitions",
        cls=Option,
        setting="partitions",
        type=int,
        help="Number of partitions of each content topic and embeddings topic.",
    ),
    click.option(
        "--replication-factor",
        cls=Option,
        setting="replication_factor",
        type=int,
        help="Number of brokers that hold each partition.",
    ),
    click.option(
        "--min-insync-replicas",
        cls=Option,
        setting="min_insync_replicas",
        type=int,
        help="Number of those brokers that must have a record before it counts as written.",
    ),
    collection_options,
    json_option,
)
"""The options that say which topics are wanted. None stands for the setting in the environment."""


@topics.command(
    examples=[
        Example("tidelens topics create", "Create topics as the settings say."),
        Example(
            "tidelens topics create --partitions 12 --replication-factor 3",
            "Create them for a cluster of three or more brokers.",
        ),
    ]
)
@_plan_options
def create(as_json: bool, **options: Any) -> None:
    """Create the topics that are missing.

    Topics that exist are not changed. The exit code is 1 if one of them differs from what is
    wanted.
    """
    from streams.topics.creation import create_collection_topics

    plan = _Plan.of(options)
    settings = plan.settings
    made = _run(
        create_collection_topics(
            plan.connection,
            plan.names,
            plan.specs,
            replication_factor=settings.replication_factor,
            min_insync_replicas=settings.min_insync_replicas,
        )
    )
    plan.context.announce()
    if as_json:
        differences = [asdict(difference) for difference in made.differences]
        say_json({"created": made.created, "differences": differences})
    else:
        for name in made.created:
            say(f"created {name}")
        if not made.created and not made.differences:
            say(f"all {len(plan.specs)} topics exist as they should")
        _tell(made.differences, plan)
    if made.differences:
        sys.exit(1)


@topics.command(
    examples=[
        Example("tidelens topics describe", "Show the topics of the running `up`."),
        Example(
            "tidelens topics describe --model openai/clip-vit-base-patch32 --json",
            "Show those of another model's space, for a program.",
        ),
    ]
)
@_plan_options
def describe(as_json: bool, **options: Any) -> None:
    """Show the topics, and how they differ from what is wanted.

    The exit code is 1 if a topic differs or is missing.
    """
    from streams.topics import admin as kafka_topics

    plan = _Plan.of(options)
    found = _run(kafka_topics.read_topics(plan.connection, [spec.name for spec in plan.specs]))
    plan.context.announce()
    wanted = kafka_topics.with_replication(plan.specs, plan.settings.min_insync_replicas)
    differences = kafka_topics.topic_differences(wanted, found)
    if as_json:
        answer = {
            "topics": [asdict(topic) for topic in found.values()],
            "differences": [asdict(difference) for difference in differences],
        }
        say_json(answer)
    else:
        for spec in wanted:
            topic = found.get(spec.name)
            if topic is None:
                continue
            say(
                f"{topic.name}  id {topic.id}  partitions {topic.partitions}  "
                f"replication factor {topic.replication_factor}"
            )
            for setting in spec.config:
                say(f"    {setting}={topic.config.get(setting, 'unknown')}")
        _tell(differences, plan)
    if differences:
        sys.exit(1)


@topics.command(
    "print",
    examples=[
        Example("tidelens topics print", "Print the commands for the settings as they are."),
        Example(
            "tidelens topics print --principal encoder=User:enc --principal index=User:idx",
            "Print access rules for the users that two of the roles log in as.",
        ),
    ],
)
@click.option(
    "--principal",
    "principals",
    multiple=True,
    metavar="ROLE=User:NAME",
    help="User that a role logs in as. Roles are publisher, encoder, index, gateway and operator. "
    "May be repeated.",
)
@click.option(
    "--command-config",
    metavar="FILE",
    help="File of client properties that the printed commands name.",
)
@_plan_options
def print_(
    as_json: bool, command_config: str | None, principals: tuple[str, ...], **options: Any
) -> None:
    """Print the commands of Kafka that create topics and access rules.

    They are kafka-topics and kafka-acls commands for an administrator to run. No broker is asked.
    """
    from streams.kafka.shell_commands import Principals, kafka_acls_commands, kafka_topics_commands
    from streams.topics.admin import with_replication

    plan = _Plan.of(options)
    brokers = plan.connection.brokers
    named = _principals(principals, Principals.roles())
    create_commands = kafka_topics_commands(
        with_replication(plan.specs, plan.settings.min_insync_replicas),
        brokers,
        replication_factor=plan.settings.replication_factor,
        command_config=command_config,
    )
    acl_commands = kafka_acls_commands(
        plan.names, brokers, Principals(**named), command_config=command_config
    )
    if as_json:
        say_json({"topics": create_commands, "acls": acl_commands})
        return
    say("# Topics", *create_commands)
    for role, commands in acl_commands.items():
        say("", f"# ACLs of the role {role}", *commands)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The topics that a collection wants, and the broker that has them."""

    context: "CommandContext"
    settings: "Settings"
    names: "Names"
    specs: "list[TopicSpec]"
    connection: "KafkaConnection"

    @classmethod
    def of(cls, options: dict[str, Any]) -> "_Plan":
        from consumers.models import model_space
        from contracts.topics import topic_specs
        from tidelens.cli.base.collection_choice import command_context

        context = command_context("topics", **options)
        settings = context.settings
        names = context.names(model_space(settings.model).name)
        specs = topic_specs(
            names, partitions=settings.partitions, content_bytes_max=settings.record_bytes_max
        )
        return cls(context, settings, names, specs, context.connection())


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def _tell(differences: "list[TopicDifference]", plan: _Plan) -> None:
    from streams.kafka.shell_commands import kafka_configs_commands
    from streams.topics.partition_counts import how_to_add_partitions

    for difference in differences:
        say(f"differs: {difference}", err=True)
    repairs = kafka_configs_commands(differences, plan.connection.brokers)
    if repairs:
        say("to change the settings:", err=True)
        for command in repairs:
            say(f"    {command}", err=True)
    more = max((int(d.have or 0) for d in differences if _has_more(d, plan.names)), default=0)
    if more:
        say(
            f"to have {more} partitions: {how_to_add_partitions(plan.names.prefix, more)}", err=True
        )


def _has_more(difference: "TopicDifference", names: "Names") -> bool:
    """Return whether partitions were added to a topic whose count is fixed."""
    if difference.setting != "partitions" or names.target_of(difference.topic) is None:
        return False
    return int(difference.have or 0) > int(difference.want)


def _principals(given: tuple[str, ...], roles: list[str]) -> dict[str, str]:
    named = {}
    for entry in given:
        role, _, principal = entry.partition("=")
        if role not in roles or ":" not in principal:
            raise click.BadParameter(
                f"want ROLE=User:NAME with a role of {', '.join(roles)}, got {entry!r}",
                param_hint="--principal",
            )
        named[role] = principal
    return named
