"""The operations that `tidelens doctor` asks for are those that `tidelens topics print` grants."""

import itertools

import pytest

from contracts.topics import Names
from streams.kafka import cluster_check
from streams.kafka.shell_commands import Principals, kafka_acls_commands
from streams.topics.metadata import TopicDescription

NAMES = Names("tidelens.", "hash-v1")
READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS = 3, 4, 8, 10


def granted() -> set[tuple[str, str]]:
    """Return the pairs of topic and operation that are granted to any role."""
    found = set()
    for commands in kafka_acls_commands(NAMES, "b:1", Principals()).values():
        for words in (command.split() for command in commands):
            pairs = list(itertools.pairwise(words))
            operations = [value for name, value in pairs if name == "--operation"]
            topics = [value for name, value in pairs if name == "--topic"]
            found |= {(topic, operation) for topic in topics for operation in operations}
    return found


def test_nothing_is_missed_that_no_role_is_granted() -> None:
    wanted = {
        (topic, operation)
        for topic, operations in cluster_check.required_operations(NAMES).items()
        for operation in operations
    }
    assert wanted <= granted()


def found(*operations: int) -> TopicDescription:
    return TopicDescription("id", 1, 1, sum(1 << operation for operation in operations))


def test_each_right_that_is_missing_is_named_with_who_needs_it() -> None:
    everything = {topic: found(*range(3, 13)) for topic in cluster_check.required_operations(NAMES)}
    assert [each.missing for each in cluster_check._rights(NAMES, everything)] == [""]
    [lacking] = cluster_check._rights(NAMES, everything | {NAMES.control: found(READ, DESCRIBE)})
    assert lacking.missing.startswith("we may not Write tidelens.control, which space needs; ")


@pytest.mark.parametrize("operations", [(), (DESCRIBE,)])
def test_only_topics_that_exist_are_judged(operations: tuple[int, ...]) -> None:
    told = cluster_check._rights(NAMES, {NAMES.dead_letters: found(*operations)})
    assert len(told) == 2
    assert all(NAMES.dead_letters in each.missing for each in told)
