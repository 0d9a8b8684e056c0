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
from contracts.settings.variables import Variables, is_kubernetes_service

_SHOWN_MAX = 200


class _Environment(EnvSettingsSource):
    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = super()._load_env_vars()
        return {
            n: value for n, value in variables.items() if not is_kubernetes_service(n, value or "")
        }


class EnvironmentSettings(BaseSettings):
    """Base of settings that are read from the environment: the field `port` from TIDELENS_PORT.

    Variables that Kubernetes made for a service are ignored.
    """

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


S = TypeVar("S", bound=EnvironmentSettings)


def read_settings(cls: type[S], given: Mapping[str, Any], variables: Variables) -> S:
    """Read settings; values in `given` that are not None take precedence.

    Raises ConfigurationError for the first mistake, and for a variable that is not a setting.
    """
    if mistakes := variables.wrong():
        raise ConfigurationError(mistakes[0])
    try:
        return cls(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigurationError(describe_error(cls, first)) from None
    except SettingsError as error:
        raise ConfigurationError(describe_json_error(cls, error)) from None


def variable_of(cls: type[EnvironmentSettings], name: str) -> str:
    """Return the name of the variable that the setting `name` is read from."""
    return f"{cls.model_config['env_prefix']}{name.upper()}"


def setting_of(error: ErrorDetails) -> str:
    """Return the name of the setting that is wrong; of a list, one entry may be wrong."""
    return str(error["loc"][0])


def describe_error(cls: type[EnvironmentSettings], error: ErrorDetails) -> str:
    """Return one line with the variable, what is wrong with its value, and the value."""
    variable = variable_of(cls, setting_of(error))
    if error["type"] == "value_error":  # raised by a check of Tidelens, whose message has the value
        return f"{variable}: {error['msg'].removeprefix('Value error, ')}"
    return f"{variable}: {error['msg']}, got {_display_value(cls, error)}"


def describe_json_error(cls: type[EnvironmentSettings], error: SettingsError) -> str:
    """Return one line with the variable that should be JSON, and its value."""
    # The library names the setting only in its message, and looks at no other setting after it.
    variable = variable_of(cls, str(error).split('"')[1])
    got = repr(getattr(error.__cause__, "doc", ""))  # only the cause has the value
    return f'{variable}: want JSON such as \'["a", "b"]\', got {got[:_SHOWN_MAX]}'


def _display_value(cls: type[EnvironmentSettings], error: ErrorDetails) -> str:
    """Return the wrong value as it may be shown: cut if it is long, and never a secret."""
    if "SecretStr" in repr(cls.model_fields[setting_of(error)].annotation):
        return "a secret"
    got = repr(error["input"])
    return got if len(got) <= _SHOWN_MAX else f"{got[:_SHOWN_MAX]}..."
