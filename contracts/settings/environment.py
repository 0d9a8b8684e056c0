"""Read settings from the environment; a mistake becomes one line that names the variable."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from contracts.errors import ConfigurationError
from contracts.settings.variables import Variables, of_kubernetes

_SHOWN_MAX = 200


class _Environment(EnvSettingsSource):
    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = super()._load_env_vars()
        return {n: value for n, value in variables.items() if not of_kubernetes(n, value or "")}


class FromEnvironment(BaseSettings):
    """The base of settings that are read from the environment, without variables of Kubernetes."""

    model_config = SettingsConfigDict(env_prefix="TIDELENS_", frozen=True, allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls)


S = TypeVar("S", bound=FromEnvironment)


def read(kind: type[S], given: Mapping[str, Any], variables: Variables) -> S:
    """Read settings; values in `given` that are not None take precedence.

    Raises ConfigurationError.
    """
    if wrong := variables.wrong():
        raise ConfigurationError(wrong[0])
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(_one_line(kind, error)) from None
    except SettingsError as error:
        raise ConfigurationError(_not_json(kind, error)) from None


def variable_of(kind: type[FromEnvironment], name: str) -> str:
    """Return the name of the variable that the setting `name` is read from."""
    return f"{kind.model_config['env_prefix']}{name.upper()}"


def _one_line(kind: type[FromEnvironment], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    variable = variable_of(kind, str(first["loc"][0]))
    if first["type"] == "value_error":  # a check of the settings, whose message has the value
        return f"{variable}: {first['msg'].removeprefix('Value error, ')}"
    return f"{variable}: {first['msg']}, got {shown(kind, first)}"


def shown(kind: type[FromEnvironment], error: ErrorDetails) -> str:
    """Return a wrong value as text that may be shown: cut if long, and never a secret."""
    if "SecretStr" in repr(kind.model_fields[str(error["loc"][0])].annotation):
        return "a secret"
    got = repr(error["input"])
    return got if len(got) <= _SHOWN_MAX else f"{got[:_SHOWN_MAX]}..."


def _not_json(kind: type[FromEnvironment], error: SettingsError) -> str:
    got = repr(getattr(error.__cause__, "doc", ""))  # only what caused it has the value
    return f"{variable_of(kind, setting_of(error))}: want JSON, got {got[:_SHOWN_MAX]}"


def setting_of(error: SettingsError) -> str:
    """Return the name of the setting that is not JSON, in capitals and without prefix.

    The library names it only in its message, and checks no other setting after it.
    """
    return str(error).split('"')[1].upper()
