"""`tidelens config` shows the settings by group, says where each came from, and hides secrets."""

import orjson
import pytest
from click.testing import CliRunner, Result

from contracts.errors import ConfigurationError
from contracts.settings import KafkaSettings, Settings
from contracts.settings.description import describe_settings
from contracts.settings.groups import GROUPS
from tidelens.cli.config import config


def ran(*arguments: str) -> Result:
    result = CliRunner().invoke(config, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result


def rows(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, dict[str, object]]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return {row["name"]: row for row in orjson.loads(ran("--json").stdout)}


def shown(*arguments: str) -> set[str]:
    """Return the variables that the text form shows."""
    lines = ran(*arguments).stdout.splitlines()
    return {line.partition("=")[0] for line in lines if line.startswith("TIDELENS_")}


def test_every_setting_is_there_with_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch)
    wanted = {f"TIDELENS_{name.upper()}" for name in Settings.model_fields}
    wanted |= {f"TIDELENS_KAFKA_{name.upper()}" for name in KafkaSettings.model_fields}
    assert set(found) == wanted
    assert all(row["description"] for row in found.values())


def test_values_and_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch, TIDELENS_PARTITIONS="7", tidelens_shard="b", TIDELENS_DATA="d")
    assert found["TIDELENS_PARTITIONS"]["value"] == 7
    assert found["TIDELENS_PARTITIONS"]["origin"] == "environment"
    assert found["TIDELENS_SHARD"]["origin"] == "environment"
    assert found["TIDELENS_DATA"]["value"] == "d"
    assert found["TIDELENS_PORT"] == {
        "name": "TIDELENS_PORT",
        "group": "server",
        "basic": True,
        "type": "integer",
        "unit": None,
        "bounds": {"minimum": 0, "maximum": 65535},
        "default": 8080,
        "value": 8080,
        "origin": "default",
        "description": "Port that the API listens on. With 0 the system chooses a free one.",
    }
    assert found["TIDELENS_ENCODE_WAIT_MS"]["unit"] == "ms"
    assert found["TIDELENS_ENCODE_WAIT_MS"]["basic"] is False


def test_what_kubernetes_made_is_no_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch, TIDELENS_PORT="tcp://10.0.0.1:8080")
    assert (found["TIDELENS_PORT"]["value"], found["TIDELENS_PORT"]["origin"]) == (8080, "default")


@pytest.mark.parametrize(
    "options",
    [[], ["--all"], ["--json"], ["kafka_sasl_password"], ["--json", "kafka_sasl_password"]],
)
def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.setenv("TIDELENS_KAFKA_SASL_PASSWORD", "hunter2")
    result = ran(*options)
    assert "hunter2" not in result.output
    assert "********" in result.output


def test_the_text_form_can_be_put_into_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_HOSTS_ALLOWED", '["a.example"]')
    lines = ran().output.splitlines()
    assert 'TIDELENS_HOSTS_ALLOWED=["a.example"]  (environment)' in lines
    assert "TIDELENS_BROKERS=" in lines


def test_the_basic_settings_are_shown_below_headings_and_all_of_them_on_demand() -> None:
    basic = {setting.name for setting in describe_settings() if setting.basic}
    every = {setting.name for setting in describe_settings()}
    assert shown() == basic
    assert shown("--all") == every
    lines = ran("--all").output.splitlines()
    headings = [line for line in lines if line.startswith("# ")]
    assert [line[2:].partition(" (read by")[0] for line in headings] == [g.title for g in GROUPS]
    assert f"{len(every - basic)} advanced settings are at their defaults" in ran().output


def test_an_advanced_setting_that_is_set_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "TIDELENS_ENCODE_WAIT_MS" not in shown()
    monkeypatch.setenv("TIDELENS_ENCODE_WAIT_MS", "300")
    assert "TIDELENS_ENCODE_WAIT_MS" in shown()


@pytest.mark.parametrize("name", ["encode_ahead_mb", "ENCODE_AHEAD_MB", "TIDELENS_ENCODE_AHEAD_MB"])
def test_one_setting_is_explained(name: str) -> None:
    lines = [" ".join(line.split()) for line in ran(name).output.splitlines()]
    assert lines[0] == "TIDELENS_ENCODE_AHEAD_MB=256"
    assert lines[-4:] == [
        "values integer, 1 to 16777216 MiB",
        "default 256",
        "group Encoder: batches, threads and metrics (advanced)",
        "read by encode, up",
    ]
    [row] = orjson.loads(ran("--json", name).stdout)
    assert row["name"] == "TIDELENS_ENCODE_AHEAD_MB"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("relpica", "did you mean TIDELENS_REPLICA?"),
        ("xyzzy", "`tidelens config --all` lists all settings"),
    ],
)
def test_an_unknown_name_is_refused(name: str, advice: str) -> None:
    result = CliRunner().invoke(config, [name])
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception) == f"no setting is named {name}; {advice}"


def test_a_bad_value_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_PARTITIONS", "many")
    result = CliRunner().invoke(config, [])
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception).startswith("TIDELENS_PARTITIONS: ")
