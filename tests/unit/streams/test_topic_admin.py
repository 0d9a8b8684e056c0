"""Topics as wanted against topics as they are, and the commands printed for them."""

import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from contracts.errors import TopicMismatch
from contracts.settings import KafkaSettings
from contracts.topics import TARGETS, Names, TopicSpec, topic_specs
from streams.kafka.connection import KafkaConnection
from streams.kafka.shell_commands import (
    Principals,
    kafka_acls_commands,
    kafka_configs_commands,
    kafka_topics_commands,
)
from streams.topics import admin
from streams.topics.admin import (
    ExistingTopic,
    TopicDifference,
    require_partitions,
    topic_differences,
    with_replication,
)
from streams.topics.metadata import TopicDescription

NAMES = Names("t.", "space-v1")
SPECS = topic_specs(NAMES, partitions=4, content_bytes_max=1_000_000)


def as_made(specs: list[TopicSpec]) -> dict[str, ExistingTopic]:
    """Return the topics that a broker creates from `specs`, its own defaults included."""
    return {
        spec.name: ExistingTopic(
            spec.name, "id", spec.partitions, 1, {"segment.ms": "1", **spec.config}
        )
        for spec in specs
    }


@pytest.mark.anyio
async def test_topics_that_were_made_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy broker learns of topics later than its controller does, and `up` must wait for it."""
    looks = 0

    @asynccontextmanager
    async def client(_: KafkaConnection) -> AsyncIterator[None]:
        yield None

    async def found(_: object, names: Sequence[str], **__: bool) -> dict[str, TopicDescription]:
        nonlocal looks
        looks += 1
        return {name: TopicDescription("id", 4, 1) for name in names if looks > 3}

    async def made(*_: object) -> list[str]:
        return [spec.name for spec in SPECS]

    async def describe(*_: object) -> dict[str, ExistingTopic]:
        assert looks > 3
        return as_made(with_replication(SPECS, 1))

    monkeypatch.setattr(KafkaConnection, "client", client)
    for name, fake in (("describe_topics", found), ("_create", made), ("read_topics", describe)):
        monkeypatch.setattr(admin, name, fake)
    connection = KafkaConnection("k:1", KafkaSettings())
    done = await admin.create_topics(connection, SPECS, replication_factor=1, min_insync_replicas=1)
    assert (len(done.created), done.differences) == (len(SPECS), [])


def options_of(command: str) -> dict[str, list[str]]:
    """Return the options of a printed command, parsed as a shell would."""
    options: dict[str, list[str]] = {}
    words = shlex.split(command)[1:]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            options.setdefault(word, [])
            if following and not following.startswith("--"):
                options[word].append(following)
    return options


def test_what_was_made_does_not_differ() -> None:
    assert topic_differences(SPECS, as_made(SPECS)) == []


def test_absent_partitions_and_settings_are_told() -> None:
    there = as_made(SPECS)
    images, captions = NAMES.content("images"), NAMES.content("captions")
    del there[captions]
    config = {**there[images].config, "cleanup.policy": "delete"}
    there[images] = replace(there[images], partitions=5, config=config)
    assert [str(difference) for difference in topic_differences(SPECS, there)] == [
        f"{images}: partitions is 5, want 4",
        f"{images}: cleanup.policy is delete, want compact",
        f"{captions}: does not exist",
    ]


def test_the_order_in_a_policy_does_not_matter() -> None:
    spec = TopicSpec("a", 1, {"cleanup.policy": "compact,delete"})
    topic = ExistingTopic("a", "id", 1, 1, {"cleanup.policy": "delete,compact"})
    assert topic_differences([spec], {"a": topic}) == []


def test_a_wrong_count_is_refused_with_both_numbers() -> None:
    counts = {spec.name: spec.partitions for spec in SPECS}
    require_partitions(SPECS, counts)
    require_partitions(SPECS, {})
    with pytest.raises(TopicMismatch, match=r"has 6 partitions, 4 are wanted"):
        require_partitions(SPECS, dict.fromkeys(counts, 6))


def test_counts_that_no_setting_fits_get_one_advice() -> None:
    counts = {spec.name: spec.partitions for spec in SPECS}
    with pytest.raises(
        TopicMismatch, match=r"no TIDELENS_PARTITIONS fits .*another --topic-prefix"
    ):
        require_partitions(SPECS, {**counts, NAMES.content("images"): 6})


def test_the_printed_commands_make_the_same_topics() -> None:
    specs = with_replication(SPECS, 2)
    commands = kafka_topics_commands(specs, "k:9092", replication_factor=3)
    for spec, command in zip(specs, commands, strict=True):
        options = options_of(command)
        assert command.startswith("kafka-topics.sh --bootstrap-server k:9092 --create ")
        assert options["--topic"] == [spec.name]
        assert options["--partitions"] == [str(spec.partitions)]
        assert options["--replication-factor"] == ["3"]
        config = dict(entry.split("=", 1) for entry in options["--config"])
        assert config == spec.config
        assert config["min.insync.replicas"] == "2"


def test_repairs_are_printed_for_settings_only() -> None:
    found = [
        TopicDifference("a", "topic", "exists", None),
        TopicDifference("a", "partitions", "4", "5"),
        TopicDifference("a", "cleanup.policy", "compact,delete", "delete"),
    ]
    [command] = kafka_configs_commands(found, "k:1", command_config="client.properties")
    assert options_of(command)["--add-config"] == ["cleanup.policy=[compact,delete]"]
    assert options_of(command)["--command-config"] == ["client.properties"]


def granted(role: str) -> Mapping[tuple[str, str], set[str]]:
    """Return the operations that are granted to a role, by resource type and name."""
    grants: dict[tuple[str, str], set[str]] = {}
    principals = Principals(encoder="User:enc")
    for command in kafka_acls_commands(NAMES, "k:1", principals)[role]:
        options = options_of(command)
        for kind in ("--topic", "--group", "--transactional-id", "--cluster"):
            for name in options.get(kind, []) or ([""] if kind in options else []):
                grants.setdefault((kind, name), set()).update(options["--operation"])
        if any(name.endswith(".") for (_, name) in grants if name in command.split()):
            assert options["--resource-pattern-type"] == ["prefixed"]
    return grants


def test_an_encoder_may_do_its_transactions_and_no_more() -> None:
    grants = granted("encoder")
    assert grants["--transactional-id", "t.space-v1."] == {"Write", "Describe"}
    assert NAMES.transactional_id("images", 3).startswith("t.space-v1.")
    assert grants["--group", NAMES.encoder_group] == {"Read", "Describe"}
    assert grants["--group", "t.index.space-v1."] == {"Describe"}
    # To tell which index nodes run.
    assert grants["--group", "t.streams.space-v1."] == {"Describe"}
    assert grants["--cluster", ""] == {"IdempotentWrite"}
    assert "Write" not in grants["--topic", NAMES.content("images")]
    assert "Write" in grants["--topic", NAMES.embeddings("images")]
    assert "Write" in grants["--topic", NAMES.dead_letters]


def test_a_publisher_may_only_write_content() -> None:
    grants = granted("publisher")
    topics = {name for kind, name in grants if kind == "--topic"}
    # The control topic has the partition counts that the content topics were made with.
    assert topics == {NAMES.control, *(NAMES.content(target) for target in TARGETS)}
    assert grants["--topic", NAMES.control] == {"Read", "Describe"}


def test_an_index_node_reads_and_commits_its_own_groups() -> None:
    grants = granted("index")
    assert grants["--group", "t.index.space-v1."] == {"Read", "Describe"}
    assert NAMES.index_group("0", "a").startswith("t.index.space-v1.")
    assert grants["--group", "t.streams.space-v1."] == {"Read", "Describe"}
    assert grants["--group", NAMES.encoder_group] == {"Describe"}


def test_an_operator_makes_spaces_says_which_is_active_and_retries_dead_letters() -> None:
    grants = granted("operator")
    assert grants["--topic", NAMES.control] == {"Read", "Write", "Describe"}
    assert grants["--topic", "t.embeddings."] == {"Read", "Describe"}
    # `tidelens lag --forget`
    assert grants["--group", "t."] == {"Describe", "Delete"}
    assert granted("encoder").keys() - grants.keys() == set()
    for topic in (NAMES.content("images"), NAMES.content("captions"), NAMES.dead_letters):
        assert grants["--topic", topic] >= {"Read", "Write", "Describe"}


def test_principals_are_used() -> None:
    commands = kafka_acls_commands(NAMES, "k:1", Principals(encoder="User:enc"))
    assert all("--allow-principal User:enc" in command for command in commands["encoder"])
    assert sorted(commands) == sorted(Principals.roles())
