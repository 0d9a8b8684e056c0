"""Every setting, read from the environment in this one place.

A setting `name` is the variable TIDELENS_NAME; `tidelens config` prints each with its value,
origin and meaning. Command-line options override them. Every limit of the system stands here or
beside the contract it limits (contracts/events.py), with a name and a default.
"""

import os
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from contracts.environment import read, variable_of
from contracts.settings.bounds import GIB, MIB
from contracts.settings.deployment import DeploymentSettings
from contracts.settings.encoding import EncodingSettings
from contracts.settings.http import HttpSettings
from contracts.settings.indexing import IndexingSettings
from contracts.settings.kafka import KafkaSettings
from contracts.settings.pictures import PictureSettings
from contracts.settings.queries import QuerySettings
from contracts.settings.records import RecordSettings
from contracts.settings.references import ReferenceSettings
from contracts.settings.serving import ServingSettings
from contracts.variables import Variables, sorted_out

__all__ = ["GIB", "MIB", "KafkaSettings", "Settings", "load", "load_kafka", "variables"]


class Settings(
    HttpSettings,
    ServingSettings,
    IndexingSettings,
    PictureSettings,
    QuerySettings,
    EncodingSettings,
    ReferenceSettings,
    RecordSettings,
    DeploymentSettings,
):
    """All settings but those of Kafka: TIDELENS_*."""

    # `tidelens config` prints the fields of the last base first.
    model_config = SettingsConfigDict(env_prefix="TIDELENS_", frozen=True, allow_inf_nan=False)

    log_format: Literal["auto", "human", "json"] = Field(
        "auto", description="Format of the logs. auto: human on a terminal, otherwise JSON."
    )


def load(**overrides: Any) -> Settings:
    """Read settings from the environment; `overrides` that are not None take precedence."""
    return read(Settings, overrides, variables())


def load_kafka(**overrides: Any) -> KafkaSettings:
    """Read the settings of Kafka connections; `overrides` that are not None take precedence."""
    return read(KafkaSettings, overrides, variables())


def variables() -> Variables:
    """Sort the environment's variables that begin with TIDELENS_ by what they are."""
    kinds = (Settings, KafkaSettings)
    return sorted_out(
        os.environ, [variable_of(kind, name) for kind in kinds for name in kind.model_fields]
    )
