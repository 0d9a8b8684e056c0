"""All checks run at once, each with a time limit, so that one that hangs is one failed line."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_settings import SettingsError

from contracts.errors import ConfigurationError, TidelensError
from contracts.settings import KafkaSettings, Settings, variables
from contracts.settings.environment import (
    EnvironmentSettings,
    describe_error,
    describe_json_error,
    setting_of,
    variable_of,
)
from contracts.settings.variables import PREFIX
from tidelens.cli.base.collection_choice import effective_settings
from tidelens.cli.doctor import (
    bucket,
    control,
    folders,
    kafka,
    lag,
    machine,
    model,
    packages,
    ports,
    precision,
)
from tidelens.cli.doctor.finding import Check, Finding, failed, from_error, skipped, warning
from tidelens.process.extras import explain_import
from tidelens.process.threads import in_daemon_thread

BOUND_S = 10.0

# In the order of the table.
CHECKS: Mapping[str, Check] = {
    "python": packages.python,
    "packages": packages.packages,
    "extras": packages.extras,
    "device": machine.device,
    "compiler": machine.compiler,
    "memory": machine.memory,
    "open files": machine.open_files,
    "disk": folders.disk,
    "bucket": bucket.bucket,
    "allow roots": folders.allow_roots,
    "model": model.model,
    "precision": precision.precision,
    "ports": ports.ports,
    "broker": kafka.broker,
    "topics": kafka.topics,
    "control": control.control,
    "lag": lag.lag,
}

_NAMES = "unset it, or correct its name; `tidelens config --all` lists all settings"
_SETTINGS = "`tidelens config` shows the addresses, folders and files that are asked"

_CONTRADICTION = "every command refuses this; unset it, or stop that `up`"

S = TypeVar("S", bound=EnvironmentSettings)


async def run_checks(
    given: Mapping[str, Any], checks: Mapping[str, Check] = CHECKS, *, bound_s: float = BOUND_S
) -> list[Finding]:
    """Run the checks with the settings of the environment; those `given` override them."""
    given_names = variables()
    names = [failed("settings", line, fix=_NAMES) for line in given_names.wrong()]
    if ignored := given_names.kubernetes:
        detail = f"{', '.join(ignored)}: ignored, since Kubernetes made it for a service"
        names.append(warning("settings", detail, fix="set enableServiceLinks: false in the pod"))
    settings, wrong = _read(Settings, given)
    kafka_settings, wrong_too = _read(KafkaSettings, {})
    contradicted: list[Finding] = []
    if not (wrong or wrong_too or names):
        settings, kafka_settings, contradicted = await in_daemon_thread(
            lambda: _as_commands_do(settings, kafka_settings, given)
        )
    found = await asyncio.gather(
        *(
            _bounded(name, check, settings, kafka_settings, bound_s)
            for name, check in checks.items()
        )
    )
    findings = [*names, *wrong, *wrong_too, *contradicted]
    return [*findings, *(finding for findings in found for finding in findings)]


def _as_commands_do(
    settings: Settings, kafka: KafkaSettings, given: Mapping[str, Any]
) -> tuple[Settings, KafkaSettings, list[Finding]]:
    """Fill in what the running `up` has, or report what contradicts it."""
    try:
        found = effective_settings(given)
    except ConfigurationError as error:
        return settings, kafka, [failed("collection", str(error), fix=_CONTRADICTION)]
    # The check of the broker reports whether one was set.
    return found.settings.model_copy(update={"brokers": settings.brokers}), found.kafka, []


async def _bounded(
    name: str, check: Check, settings: Settings, kafka_settings: KafkaSettings, bound_s: float
) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(bound_s):
            return await check(settings, kafka_settings)
    except TimeoutError:
        return [failed(name, f"no answer within {bound_s:g} s", fix=_SETTINGS)]
    except ImportError as error:
        if missing := explain_import(error):
            return [skipped(name, str(missing))]
        return [failed(name, str(error), fix="repair the packages first, then try again")]
    except (TidelensError, OSError) as error:
        return [from_error(name, error, fix=_SETTINGS)]
    except Exception as error:
        # No code expects this error, so its type is all that is known about it.
        return [failed(name, f"{type(error).__name__}: {error}", fix=_SETTINGS)]


def _read(cls: type[S], given: Mapping[str, Any]) -> tuple[S, list[Finding]]:
    """Return the settings, and a finding for each wrong value, which the default replaces."""
    try:
        return cls(**given), []
    except ValidationError as error:
        wrong = {setting_of(each): each for each in error.errors(include_url=False)}
        defaults = {
            name: cls.model_fields[name].get_default(call_default_factory=True) for name in wrong
        }
        findings = [
            failed("settings", describe_error(cls, each), fix=_fix(variable_of(cls, name)))
            for name, each in wrong.items()
        ]
        return cls(**{**given, **defaults}), findings
    except SettingsError as error:
        line = describe_json_error(cls, error)
        finding = failed("settings", line, fix=_fix(line.partition(":")[0]))
        return cast(S, cls.model_construct(**given)), [finding]


def _fix(variable: str) -> str:
    name = variable.removeprefix(PREFIX).lower()
    return f"unset {variable}, or correct its value; `tidelens config {name}` explains it"
