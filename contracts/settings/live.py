"""Limits of live connections and their subscriptions."""

from typing import Annotated

from pydantic import Field

from contracts.settings.bounds import GIB, HOUR_S, MIB, YEAR_S
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Bytes, Seconds, Unit


class LiveSettings(EnvironmentSettings):
    """Limits of live connections and their subscriptions."""

    connections_max: Annotated[int, Unit("connections")] = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="Largest number of live connections of one node. Beyond it, a new one is "
        "refused with 429.",
    )
    subscriptions_max: Annotated[int, Unit("subscriptions")] = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Largest number of subscriptions on one live connection. Beyond it, a new one "
        "is refused with 429.",
    )
    standing_max: Annotated[int, Unit("subscriptions")] = Field(
        100_000,
        ge=0,
        le=10_000_000,
        description="Largest number of subscriptions on one node. Beyond it, a new one is refused "
        "with 429.",
    )
    standing_searches_max: Annotated[int, Unit("lists")] = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Largest number of live lists that wait to be searched. Beyond it, a new "
        "subscription is refused with 429.",
    )
    idle_s_max: Seconds = Field(
        300.0,
        gt=0,
        le=YEAR_S,
        description="Time, in seconds, for which a live connection may have no subscription. Then "
        "it is closed with 1000.",
    )
    send_timeout_s: Seconds = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Time, in seconds, within which a client must take a live message, or it is "
        "closed with 1013. The pace at which an HTTP answer is taken is measured in windows of "
        "the same length.",
    )
    frame_bytes_max: Bytes = Field(
        8 * MIB,
        ge=1,
        le=GIB,
        description="Largest WebSocket frame that a node receives, in bytes. A larger one closes "
        "the connection with 1009.",
    )
    message_bytes_max: Bytes = Field(
        16 * MIB,
        ge=MIB,
        le=GIB,
        description="Largest message of a live connection, in bytes. A subscription whose list "
        "would be larger is refused.",
    )
