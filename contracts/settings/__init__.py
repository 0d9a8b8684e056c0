"""Every setting, read from the environment in this one place.

The setting `name` is the variable TIDELENS_NAME, and `settings.name` in code. Each stands in the
class of its group, one file a group; groups.py lists the groups and the commands that read them.
Access is flat: `Settings` inherits from all groups, so one word finds a setting in the code, in the
environment and in the documents. A function that needs one group only says so in its signature,
as in `def content_limits(settings: ContentSettings)`, and takes a whole `Settings` too.

`tidelens config` prints each with its value, origin and meaning. Command-line options override
them. A limit that an operator may change is a setting. A limit that is part of a contract stands
beside it (contracts/events/content_body.py), and one that only divides a room's work into steps is
a constant of that room (api/live/limits.py).
"""

import os
from typing import Any

from contracts.settings.bounds import GIB, MIB
from contracts.settings.clients import ClientSettings
from contracts.settings.content import ContentSettings
from contracts.settings.encoder import EncoderSettings
from contracts.settings.environment import read_settings, variable_of
from contracts.settings.index import IndexSettings
from contracts.settings.kafka import KafkaSettings
from contracts.settings.labels import LabelSettings
from contracts.settings.live import LiveSettings
from contracts.settings.model import ModelSettings
from contracts.settings.pictures import PictureSettings
from contracts.settings.process import ProcessSettings
from contracts.settings.queries import QuerySettings
from contracts.settings.references import ReferenceSettings
from contracts.settings.requests import RequestSettings
from contracts.settings.server import ServerSettings
from contracts.settings.snapshots import SnapshotSettings
from contracts.settings.topics import TopicSettings
from contracts.settings.variables import Variables, sort_variables

__all__ = [
    "GIB",
    "MIB",
    "ContentSettings",
    "IndexSettings",
    "KafkaSettings",
    "RequestSettings",
    "Settings",
    "load",
    "load_kafka",
    "variables",
]


class Settings(
    # pydantic takes the fields of the last base first, so this is the order of groups.py reversed.
    ClientSettings,
    PictureSettings,
    QuerySettings,
    LiveSettings,
    RequestSettings,
    ServerSettings,
    SnapshotSettings,
    IndexSettings,
    ReferenceSettings,
    ContentSettings,
    LabelSettings,
    EncoderSettings,
    ModelSettings,
    ProcessSettings,
    TopicSettings,
):
    """The settings of all groups but `kafka`."""


def load(**overrides: Any) -> Settings:
    """Read settings from the environment; `overrides` that are not None take precedence.

    Raises ConfigurationError.
    """
    return read_settings(Settings, overrides, variables())


def load_kafka(**overrides: Any) -> KafkaSettings:
    """Read the settings of Kafka connections; `overrides` that are not None take precedence.

    Raises ConfigurationError.
    """
    return read_settings(KafkaSettings, overrides, variables())


def variables() -> Variables:
    """Sort the environment's variables that begin with TIDELENS_ by what they are."""
    classes = (Settings, KafkaSettings)
    return sort_variables(
        os.environ, [variable_of(cls, name) for cls in classes for name in cls.model_fields]
    )
