"""The groups of the settings: what each is about, and which commands read it.

Commands that are not named read single settings of a group too, such as `tidelens snapshot` those
of the snapshots.
"""

from dataclasses import dataclass
from typing import Literal

from contracts.settings.clients import ClientSettings
from contracts.settings.content import ContentSettings
from contracts.settings.encoder import EncoderSettings
from contracts.settings.environment import EnvironmentSettings
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

Reader = Literal["every command", "encode", "index", "up", "publish"]


@dataclass(frozen=True, slots=True)
class Group:
    """Settings that belong together: one class, whose fields are in the order that is shown."""

    name: str
    title: str
    settings: type[EnvironmentSettings]
    read_by: tuple[Reader, ...]


_EVERY: tuple[Reader, ...] = ("every command",)
_ENCODER: tuple[Reader, ...] = ("encode", "up")
_NODE: tuple[Reader, ...] = ("index", "up")
_SERVERS: tuple[Reader, ...] = ("encode", "index", "up")
_CONTENT: tuple[Reader, ...] = ("encode", "index", "up", "publish")

GROUPS = (
    Group("topics", "Kafka: brokers and topics", TopicSettings, _EVERY),
    Group("kafka", "Kafka: encryption and login", KafkaSettings, _EVERY),
    Group("process", "Processes: files, logs and restarts", ProcessSettings, _EVERY),
    Group("model", "Model", ModelSettings, _SERVERS),
    Group("encoder", "Encoder: batches, threads and metrics", EncoderSettings, _ENCODER),
    Group("labels", "Encoder: labels", LabelSettings, _ENCODER),
    Group("content", "Content: records and pictures", ContentSettings, _CONTENT),
    Group("references", "Content: pictures by reference", ReferenceSettings, _SERVERS),
    Group("index", "Index", IndexSettings, _NODE),
    Group("snapshots", "Index: snapshots", SnapshotSettings, _NODE),
    Group("server", "Server: address and names", ServerSettings, _SERVERS),
    Group("requests", "Server: requests and answers", RequestSettings, _NODE),
    Group("live", "Server: live connections", LiveSettings, _NODE),
    Group("queries", "Server: encoding of queries", QuerySettings, _NODE),
    Group("pictures", "Server: pictures shown", PictureSettings, _NODE),
    Group("clients", "Server: many and slow clients", ClientSettings, _SERVERS),
)
