"""`tidelens config` shows every setting, tells where it came from, and hides secrets."""

import orjson
import pytest
from click.testing import CliRunner

from contracts.errors import ConfigurationError
from contracts.settings import KafkaSettings, Settings
from tidelens.commands.config import config


def rows(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, dict[str, object]]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(config, ["--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return {row["variable"]: row for row in orjson.loads(result.stdout)}


def test_every_setting_is_there_with_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = rows(monkeypatch)
    wanted = {f"TIDELENS_{name.upper()}" for name in Settings.model_fields}
    wanted |= {f"TIDELENS_KAFKA_{name.upper()}" for name in KafkaSettings.model_fields}
    assert set(shown) == wanted
    assert all(row["meaning"] for row in shown.values())


def test_values_and_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = rows(monkeypatch, TIDELENS_PARTITIONS="7", tidelens_shard="b", TIDELENS_DATA="d")
    assert shown["TIDELENS_PARTITIONS"]["value"] == 7
    assert shown["TIDELENS_PARTITIONS"]["origin"] == "environment"
    assert shown["TIDELENS_SHARD"]["origin"] == "environment"
    assert shown["TIDELENS_DATA"]["value"] == "d"
    assert shown["TIDELENS_PORT"] == {
        "variable": "TIDELENS_PORT",
        "value": 8080,
        "origin": "default",
        "meaning": "Port that the API listens on.",
    }


def test_what_kubernetes_made_is_no_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = rows(monkeypatch, TIDELENS_PORT="tcp://10.0.0.1:8080")
    assert (shown["TIDELENS_PORT"]["value"], shown["TIDELENS_PORT"]["origin"]) == (8080, "default")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.setenv("TIDELENS_KAFKA_SASL_PASSWORD", "hunter2")
    result = CliRunner().invoke(config, options, catch_exceptions=False)
    assert "hunter2" not in result.output
    assert "********" in result.output


def test_the_text_form_can_be_put_into_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_HOSTS_ALLOWED", '["a.example"]')
    lines = CliRunner().invoke(config, []).output.splitlines()
    assert 'TIDELENS_HOSTS_ALLOWED=["a.example"]  (environment)' in lines
    assert "TIDELENS_BROKERS=" in lines


def test_a_bad_value_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_PARTITIONS", "many")
    result = CliRunner().invoke(config, [])
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception).startswith("TIDELENS_PARTITIONS: ")
