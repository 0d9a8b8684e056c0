"""Every setting has bounds, every variable a name that exists, and Kubernetes' own do no harm."""

import math
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from contracts.errors import ConfigurationError
from contracts.settings import KafkaSettings, Settings, load, load_kafka, variables
from contracts.settings.environment import EnvironmentSettings, variable_of
from contracts.settings.variables import is_kubernetes_service
from tidelens.cli.doctor.examination import run_checks
from tidelens.process import logs

ROOT = Path(__file__).parents[3]
KINDS = (Settings, KafkaSettings)
NUMBERS, TEXTS = (int, float), (str, SecretStr)


def fields() -> list[tuple[type[EnvironmentSettings], str]]:
    return [(kind, name) for kind in KINDS for name in kind.model_fields]


def parts(annotation: Any, bounds: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield each plain type in an annotation, members of lists included, with its own bounds."""
    kind = get_origin(annotation)
    if kind is Annotated:
        inner, *more = get_args(annotation)
        for each in more:
            bounds = bounds + list(getattr(each, "metadata", [each]))
        yield from parts(inner, bounds)
    elif kind in (Union, types.UnionType):
        for inner in get_args(annotation):
            yield from parts(inner, bounds)
    elif kind is list:
        yield list, bounds
        for inner in get_args(annotation):
            yield from parts(inner, [])
    elif kind is not Literal:
        yield annotation, bounds


def bounded(kind: Any, bounds: list[Any]) -> bool:
    has = {type(bound) for bound in bounds}
    if kind in NUMBERS:
        lower = bool(has & {annotated_types.Ge, annotated_types.Gt})
        return lower and bool(has & {annotated_types.Le, annotated_types.Lt})
    return annotated_types.MaxLen in has if kind in (list, *TEXTS) else True


@pytest.mark.parametrize(("kind", "name"), fields())
def test_every_number_text_and_list_has_bounds(kind: type[EnvironmentSettings], name: str) -> None:
    info = kind.model_fields[name]
    for part, bounds in parts(info.annotation, list(info.metadata)):
        assert bounded(part, bounds), f"{name}: {part} without bounds, has {bounds}"


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e999", "1" + "0" * 30])
def test_no_number_takes_what_no_number_can_be(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    taken = []
    for kind, name in fields():
        info = kind.model_fields[name]
        types_ = [part for part, _ in parts(info.annotation, [])]
        if not set(types_) & set(NUMBERS):
            continue
        variable = variable_of(kind, name)
        monkeypatch.setenv(variable, f"[{value}]" if list in types_ else value)
        try:
            load()
        except ConfigurationError as error:
            assert str(error).startswith(f"{variable}: ")
        else:
            taken.append(name)
        monkeypatch.delenv(variable)
    assert not taken


def test_defaults_are_within_their_bounds() -> None:
    for kind in KINDS:
        chosen = kind()
        kind(**{name: getattr(chosen, name) for name in kind.model_fields})
        floats = [getattr(chosen, name) for name in kind.model_fields]
        assert all(math.isfinite(value) for value in floats if isinstance(value, float))


def test_a_limit_that_is_passed_is_told_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_PARTITIONS", "4097")
    with pytest.raises(ConfigurationError, match=r"^TIDELENS_PARTITIONS: .*4096, got '4097'$"):
        load()
    monkeypatch.setenv("TIDELENS_PARTITIONS", "9" * 4000)
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert len(str(raised.value)) < 400


def test_a_secret_that_is_too_long_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_KAFKA_SASL_PASSWORD", "hunter2" * 1000)
    with pytest.raises(ConfigurationError, match=r"^TIDELENS_KAFKA_SASL_PASSWORD: ") as raised:
        load_kafka()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TIDELENS_RELPICA", "TIDELENS_REPLICA"),
        ("tidelens_relpica", "TIDELENS_REPLICA"),
        ("TIDELENS_BROKER", "TIDELENS_BROKERS"),
        ("TIDELENS_KAFKA_SASL_PASWORD", "TIDELENS_KAFKA_SASL_PASSWORD"),
        ("TIDELENS_API_PORT", "TIDELENS_PORT"),
        ("TIDELENS_XYZZY", "`tidelens config --all` lists all settings$"),
    ],
)
def test_an_unknown_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv(variable, "hunter2")
    for read in (load, load_kafka):
        with pytest.raises(ConfigurationError, match=f"^{variable}: .*{meant}") as raised:
            read()
        assert "hunter2" not in str(raised.value)


@pytest.mark.anyio
async def test_the_doctor_tells_names_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_RELPICA", "7")
    monkeypatch.setenv("TIDELENS_PORT", "tcp://10.0.0.1:8080")
    found = await run_checks({}, checks={})
    assert [finding.state for finding in found] == ["failed", "warning"]
    assert "TIDELENS_REPLICA" in found[0].detail
    assert "TIDELENS_PORT" in found[1].detail


def test_one_setting_in_two_spellings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_SHARD", "a")
    monkeypatch.setenv("tidelens_shard", "b")
    with pytest.raises(ConfigurationError, match=r"^tidelens_shard: .*twice"):
        load()


OF_A_SERVICE = {
    "SERVICE_HOST": "10.0.0.1",
    "SERVICE_PORT": "8080",
    "SERVICE_PORT_HTTP": "8080",
    "PORT": "tcp://10.0.0.1:8080",
    "PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "PORT_8080_TCP_PROTO": "tcp",
    "PORT_8080_TCP_PORT": "8080",
    "PORT_8080_TCP_ADDR": "10.0.0.1",
    "PORT_53_UDP": "udp://[fd00::1]:53",
}


@pytest.mark.parametrize("service", ["TIDELENS", "TIDELENS_API", "TIDELENS_ENCODE_METRICS"])
def test_what_kubernetes_puts_there_is_passed_over_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    names = [f"{service}_{name}" for name in OF_A_SERVICE]
    for name, value in zip(names, OF_A_SERVICE.values(), strict=True):
        monkeypatch.setenv(name, value)
    assert (load().port, load().encode_metrics_port) == (8080, 9464)
    assert variables().kubernetes == tuple(sorted(names))
    with capture_logs() as lines:
        logs.warn_of_variables()
    assert lines[0]["names"] == tuple(sorted(names))
    monkeypatch.setenv("TIDELENS_PORT", "8081")
    assert load().port == 8081


def test_no_setting_has_a_name_that_kubernetes_makes() -> None:
    for kind, name in fields():
        assert not is_kubernetes_service(variable_of(kind, name), "1")


ROOMS = ["api", "consumers", "contracts", "index_store", "streams", "tidelens"]
WRITTEN = ["README.md", "docker-compose.yml", "benchmarks", "deploy", "docs", "scripts", "tests"]
# What speaks of names in general, and of wrong ones.
LEFT_OUT = {
    ROOT / "contracts/settings/__init__.py",
    ROOT / "contracts/settings/variables.py",
    Path(__file__),
}


def test_every_variable_that_is_written_anywhere_is_known() -> None:
    known = {variable_of(kind, name) for kind, name in fields()} | {"TIDELENS_FAULT"}
    tops = [ROOT / name for name in (*ROOMS, *WRITTEN)]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*"))]
    seen = set()
    for file in set(files) - LEFT_OUT:
        if file.suffix not in (".py", ".md", ".yml", ".sh", "") or not file.is_file():
            continue
        found = set(
            re.findall(
                r"\bTIDELENS_[A-Z0-9_]*[A-Z0-9]\b(?![_*.])", file.read_text(errors="replace")
            )
        )
        beginnings = {name for name in found if any(one.startswith(f"{name}_") for one in known)}
        assert found - beginnings <= known, file
        seen |= found
    assert len(seen) > 30
