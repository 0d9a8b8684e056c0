"""All checks at once, each bounded, so that one that hangs or breaks is one line of the table."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from contracts.errors import TidelensError
from contracts.settings import KafkaSettings, Settings, setting_of
from tidelens.doctor import folders, kafka, machine, model, packages, ports, precision
from tidelens.doctor.finding import Check, Finding, failed, told

BOUND_S = 10.0

# In the order of the table.
CHECKS: Mapping[str, Check] = {
    "python": packages.python,
    "packages": packages.packages,
    "device": machine.device,
    "compiler": machine.compiler,
    "memory": machine.memory,
    "open files": machine.open_files,
    "disk": folders.disk,
    "bucket": folders.bucket,
    "allow roots": folders.allow_roots,
    "model": model.model,
    "precision": precision.precision,
    "ports": ports.ports,
    "broker": kafka.broker,
    "topics": kafka.topics,
}

_SETTINGS = "`tidelens config` shows the addresses, folders and files that are asked"

S = TypeVar("S", bound=BaseSettings)


async def examined(
    given: Mapping[str, Any], checks: Mapping[str, Check] = CHECKS, *, bound_s: float = BOUND_S
) -> list[Finding]:
    """Of the settings in the environment, with those `given` before them."""
    settings, wrong = _read(Settings, given)
    kafka_settings, wrong_too = _read(KafkaSettings, {})
    found = await asyncio.gather(
        *(
            _bounded(name, check, settings, kafka_settings, bound_s)
            for name, check in checks.items()
        )
    )
    return [*wrong, *wrong_too, *(finding for findings in found for finding in findings)]


async def _bounded(
    name: str, check: Check, settings: Settings, kafka_settings: KafkaSettings, bound_s: float
) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(bound_s):
            return await check(settings, kafka_settings)
    except TimeoutError:
        return [failed(name, f"no answer within {bound_s:g} s", fix=_SETTINGS)]
    except ImportError as error:
        return [failed(name, str(error), fix="mend the packages first, then ask again")]
    except (TidelensError, OSError) as error:
        return [told(name, error, fix=_SETTINGS)]
    except Exception as error:
        # Nobody foresaw it, so that nobody knows more than its name.
        return [failed(name, f"{type(error).__name__}: {error}", fix=_SETTINGS)]


def _read(kind: type[S], given: Mapping[str, Any]) -> tuple[S, list[Finding]]:
    """The settings, with the default of each that cannot be, which is told."""
    prefix = str(kind.model_config["env_prefix"])
    try:
        return kind(**given), []
    except ValidationError as error:
        wrong = {str(each["loc"][0]): each for each in error.errors(include_url=False)}
        defaults = {
            name: kind.model_fields[name].get_default(call_default_factory=True) for name in wrong
        }
        findings = [
            failed(
                "settings",
                f"{prefix}{name.upper()}: {each['msg']}, got {each['input']!r}",
                fix=f"unset {prefix}{name.upper()}, or give it a value that can be",
            )
            for name, each in wrong.items()
        ]
        return kind(**{**given, **defaults}), findings
    except SettingsError as error:
        variable = f"{prefix}{setting_of(error)}"
        finding = failed("settings", f"{variable}: not JSON", fix=f"{variable}='[\"...\"]'")
        return cast(S, kind.model_construct(**given)), [finding]
