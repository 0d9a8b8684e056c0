"""Commands act on the collection of the running `up`, and refuse what contradicts it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from contracts.errors import ConfigurationError
from contracts.settings import KafkaSettings, Settings, load
from tidelens.__main__ import LazyGroup
from tidelens.cli.base import collection_choice as acting_module
from tidelens.cli.base.collection_choice import (
    collection_of,
    command_context,
    effective_settings,
    node_context,
    security_of,
)
from tidelens.runtime.run_file import DEFAULT_BROKERS, Runtime

SECURE = KafkaSettings(
    security_protocol="SASL_SSL",
    sasl_mechanism="SCRAM-SHA-512",
    sasl_username="ann",
    sasl_password=SecretStr("hidden"),
    ssl_cafile=Path("/etc/ca.pem"),
    ssl_certfile=Path("/etc/up.pem"),
    ssl_keyfile=Path("/etc/up.key"),
    ssl_password=SecretStr("secret too"),
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith("TIDELENS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIDELENS_DATA", str(tmp_path))
    yield tmp_path


def running(data: Path, kafka: KafkaSettings | None = None, **settings: Any) -> Runtime:
    """Write the file of an `up` with those settings."""
    given = {"topic_prefix": "other.", "partitioner": "crc32", "model": "hash", **settings}
    runtime = Runtime(
        brokers="127.0.0.1:1234",
        url="http://10.0.0.7:5678",
        pid=os.getpid(),
        space="hash-v1",
        model="hash",
        metrics_port=0,
        collection=collection_of(Settings(**given)),
        security=security_of(kafka or KafkaSettings()),
    )
    runtime.write(data)
    return runtime


def test_what_is_not_set_is_that_of_the_running_up(data: Path) -> None:
    running(data, partitions=7, shard="b", snapshots="s3://b/p", record_bytes_max=2_000_000)
    found = effective_settings({})
    settings = found.settings
    assert (settings.topic_prefix, settings.partitioner) == ("other.", "crc32")
    assert (found.brokers, settings.brokers) == ("127.0.0.1:1234", "127.0.0.1:1234")
    assert (settings.model, settings.partitions, settings.shard) == ("hash", 7, "b")
    assert (settings.snapshots, settings.record_bytes_max) == ("s3://b/p", 2_000_000)
    assert found.names().content("images") == "other.images"
    assert found.url(None) == node_context(None).url == "http://10.0.0.7:5678"
    assert node_context("http://h:1").url == "http://h:1"


def test_a_role_keeps_its_own_shard_and_store(data: Path) -> None:
    running(data, shard="b", snapshots="s3://b/p")
    settings = effective_settings({}, is_role=True).settings
    assert (settings.topic_prefix, settings.partitioner) == ("other.", "crc32")
    assert (settings.shard, settings.snapshots) == ("0", None)


def test_without_a_running_up_it_is_what_is_set(data: Path) -> None:
    found = effective_settings({"topic_prefix": "x."})
    assert (found.brokers, found.settings.topic_prefix) == (DEFAULT_BROKERS, "x.")
    assert found.url(None) == "http://127.0.0.1:8080"
    replace(running(data), pid=2**22 + 1).write(data)
    assert effective_settings({}).settings.topic_prefix == "tidelens."


@pytest.mark.parametrize(
    ("pid", "damage", "what"),
    [(2**22 + 1, None, r"pid 4194305"), (1, b"{", "cannot be read"), (1, b"[]", "read")],
)
def test_what_a_dead_up_left_behind_is_no_reason_to_act_on_another_collection(
    data: Path, monkeypatch: pytest.MonkeyPatch, pid: int, damage: bytes | None, what: str
) -> None:
    monkeypatch.setattr("tidelens.process.logs.configure", lambda *_, **__: None)
    assert command_context("delete").brokers == DEFAULT_BROKERS
    replace(running(data), pid=pid).write(data)
    if damage is not None:
        (data / "run.json").write_bytes(damage)
    with pytest.raises(ConfigurationError, match=rf"run\.json.*{what}.*--brokers"):
        command_context("delete", topic_prefix="x.")
    # Who names the Kafka, or a node, needs no file.
    assert command_context("delete", brokers="k:9").brokers == "k:9"
    assert node_context(None).url == "http://127.0.0.1:8080"
    monkeypatch.setenv("TIDELENS_BROKERS", "k:8")
    assert command_context("delete").brokers == "k:8"


def test_a_file_of_an_older_version_is_read_as_before(data: Path) -> None:
    runtime = running(data)
    old = {"brokers": "k:1", "url": "http://h:1", "pid": os.getpid(), "space": "hash-v1"}
    old |= {"model": "hash", "metrics_port": 0, "children": {}}
    (data / "run.json").write_bytes(orjson.dumps(old))
    found = effective_settings({})
    assert (found.brokers, found.settings.topic_prefix) == ("k:1", "tidelens.")
    assert effective_settings({"brokers": "k:9", "topic_prefix": "x."}).brokers == "k:9"
    assert runtime.collection


def test_a_file_of_a_newer_version_is_refused(data: Path) -> None:
    running(data)
    body = orjson.loads((data / "run.json").read_bytes())
    (data / "run.json").write_bytes(orjson.dumps(body | {"version": 2}))
    with pytest.raises(ConfigurationError, match=r"run\.json: version 2"):
        effective_settings({})


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("topic_prefix", "tidelens.", ["'tidelens.'", "'other.'"]),
        ("partitioner", "murmur2", ["'murmur2'", "'crc32'"]),
        ("brokers", "elsewhere:9092", ["'elsewhere:9092'", "'127.0.0.1:1234'"]),
    ],
)
def test_a_contradiction_is_refused_with_both_values(
    data: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: list[str]
) -> None:
    running(data)
    with pytest.raises(ConfigurationError) as refused:
        effective_settings({name: value})
    flag = f"--{name.replace('_', '-')} is"
    assert all(text in str(refused.value) for text in [flag, *named, str(data)])
    monkeypatch.setenv(f"TIDELENS_{name.upper()}", value)
    with pytest.raises(ConfigurationError) as refused:
        effective_settings({})
    assert all(text in str(refused.value) for text in [f"TIDELENS_{name.upper()} is", *named])


def test_what_is_set_to_the_same_is_accepted(data: Path) -> None:
    running(data)
    assert effective_settings(
        {"topic_prefix": "other.", "brokers": "localhost:1234,b:2"}
    ).brokers == ("localhost:1234,b:2")


def test_the_way_to_kafka_is_carried_without_its_secrets(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(data, SECURE)
    text = (data / "run.json").read_text()
    assert not any(secret in text for secret in ("hidden", "secret too", '"ann"'))
    assert '"TIDELENS_KAFKA_SASL_PASSWORD"' in text
    with pytest.raises(ConfigurationError, match="TIDELENS_KAFKA_SSL_PASSWORD: not set"):
        effective_settings({})
    monkeypatch.setenv("TIDELENS_KAFKA_SSL_PASSWORD", "secret too")
    kafka = effective_settings({}).kafka
    assert (kafka.security_protocol, kafka.sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (kafka.ssl_cafile, kafka.ssl_keyfile) == (SECURE.ssl_cafile, SECURE.ssl_keyfile)
    assert (kafka.sasl_username, kafka.sasl_password) == (None, None)


def test_an_operator_may_be_somebody_else_but_not_speak_otherwise(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(data, SECURE)
    monkeypatch.setenv("TIDELENS_KAFKA_SSL_CERTFILE", "/etc/operator.pem")
    kafka = effective_settings({}).kafka
    # Never the certificate of one with the key of another.
    assert (kafka.ssl_certfile, kafka.ssl_keyfile) == (Path("/etc/operator.pem"), None)
    monkeypatch.setenv("TIDELENS_KAFKA_SECURITY_PROTOCOL", "PLAINTEXT")
    with pytest.raises(ConfigurationError, match=r"'PLAINTEXT'.*'SASL_SSL'"):
        effective_settings({})


def test_paths_are_whole_since_commands_run_elsewhere(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    assert collection_of(Settings(snapshots="file:s"))["snapshots"] == f"file:{data}/s"
    kafka = KafkaSettings(ssl_cafile=Path("ca.pem"))
    assert security_of(kafka)["ssl_cafile"] == f"{data}/ca.pem"


@pytest.mark.parametrize(
    ("member", "value"),
    [("collection", ["x"]), ("security", 1), ("brokers", 7), ("model", None), ("pid", "x")],
)
def test_a_file_with_other_types_is_not_believed(data: Path, member: str, value: Any) -> None:
    running(data)
    body = orjson.loads((data / "run.json").read_bytes())
    (data / "run.json").write_bytes(orjson.dumps(body | {member: value}))
    assert effective_settings({}).settings.topic_prefix == "tidelens."


def test_an_impossible_value_in_the_file_is_named(data: Path) -> None:
    running(data)
    body = orjson.loads((data / "run.json").read_bytes())
    body["collection"]["topic_prefix"] = "no dot"
    (data / "run.json").write_bytes(orjson.dumps(body))
    with pytest.raises(ConfigurationError, match="TIDELENS_TOPIC_PREFIX"):
        effective_settings({})


COMMANDS = [
    ["publish", "."],
    ["delete", "captions", "x"],
    ["lag"],
    ["lag", "--forget", "g"],
    ["topics", "create"],
    ["topics", "describe"],
    ["topics", "print"],
    ["snapshot", "list"],
    ["snapshot", "verify"],
    ["snapshot", "create"],
    ["dead-letters", "list"],
    ["dead-letters", "retry", "--all"],
    ["dead-letters", "discard", "--all"],
    ["rebuild"],
    ["rebuild", "--switch"],
    ["rebuild", "--rollback"],
    ["rebuild", "--give-up-rollback"],
    ["rebuild", "--abandon"],
    ["rebuild", "--space", "hash-48", "--model", "hash:48"],
    ["space", "create", "hash:48"],
    ["space", "compare"],
    ["space", "switch"],
    ["space", "rollback"],
    ["space", "drop", "hash-48"],
    ["space", "status"],
    ["control", "show"],
    ["control", "repair"],
    ["encode"],
    ["index"],
    ["index", "tune"],
    ["search", "a"],
    ["watch", "a"],
    ["classify", "a", "--label", "b", "--label", "c"],
    ["digest"],
]
"""All that talk to Kafka or to a node."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_contradiction(
    data: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    running(data)
    monkeypatch.setenv("TIDELENS_TOPIC_PREFIX", "tidelens.")
    result = CliRunner().invoke(LazyGroup(), command)
    assert isinstance(result.exception, ConfigurationError), result.output
    assert "TIDELENS_TOPIC_PREFIX is 'tidelens.'" in str(result.exception)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_finds_the_running_up_by_its_data_directory(
    data: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    running(data)
    monkeypatch.setenv("TIDELENS_DATA", str(data / "another"))
    monkeypatch.setenv("TIDELENS_TOPIC_PREFIX", "tidelens.")
    result = CliRunner().invoke(LazyGroup(), [*command, "--data", str(data)])
    assert isinstance(result.exception, ConfigurationError), result.output
    assert f"`up` that runs on {data}" in str(result.exception)


def test_a_command_says_which_collection_it_acts_on(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running(data)
    effective_settings({}).announce()
    node_context(None).announce()
    node_context("http://h:1").announce()
    captured = capsys.readouterr()
    whose = f", of the `up` that runs on {data}"
    assert captured.err.splitlines() == [
        f"collection other. at 127.0.0.1:1234{whose}",
        f"collection other. at http://10.0.0.7:5678{whose}",
    ]
    assert captured.out == ""


def test_every_shared_setting_exists() -> None:
    names = (*acting_module._IDENTITY, *acting_module._OF_COMMANDS)
    assert set(names) <= Settings.model_fields.keys()
    assert load(topic_prefix="a.").model_fields_set >= {"topic_prefix"}
