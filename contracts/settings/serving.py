"""Limits of requests, answers and live connections."""

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import GIB, HOUR_S, MIB, YEAR_S


class ServingSettings(FromEnvironment):
    """Limits of requests, answers and live connections."""

    k_max: int = Field(1000, ge=1, le=1_000_000, description="Largest k + offset of a query.")
    answer_bytes_max: int = Field(
        32 * MIB, ge=MIB, le=GIB, description="Largest answer to one HTTP request, in bytes."
    )
    answers_bytes_max: int = Field(
        256 * MIB,
        ge=MIB,
        le=64 * GIB,
        description="Total size, in bytes, of the answers in memory; more are refused with 503.",
    )
    body_bytes_max: int = Field(
        32 * MIB, ge=1, le=GIB, description="Largest body of an HTTP request, in bytes."
    )
    body_values_max: int = Field(
        1_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Most JSON values in one request body or frame, counted as commas plus "
        "two for each list or object and three for each member.",
    )
    publish_items_max: int = Field(
        1000, ge=1, le=100_000, description="Most items in one POST /v1/items."
    )
    queries_max: int = Field(
        64, ge=1, le=10_000, description="Most queries in one POST /v1/search."
    )
    classify_prompts_max: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Most labels times templates in one POST /v1/classify.",
    )
    wait_s_max: float = Field(
        60.0,
        ge=0,
        le=YEAR_S,
        description="Longest time, in seconds, that a request may take, wait_for included.",
    )
    connections_max: int = Field(
        1000, ge=0, le=1_000_000, description="Most live connections of one node."
    )
    subscriptions_max: int = Field(
        100, ge=0, le=1_000_000, description="Most subscriptions on one live connection."
    )
    standing_max: int = Field(
        100_000, ge=0, le=10_000_000, description="Most subscriptions on one node."
    )
    idle_s_max: float = Field(
        300.0,
        gt=0,
        le=YEAR_S,
        description="Seconds after which a live connection without subscriptions is closed.",
    )
    standing_searches_max: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Most live lists that wait to be searched; beyond it new subscriptions "
        "are refused.",
    )
    frame_bytes_max: int = Field(
        8 * MIB, ge=1, le=GIB, description="Largest WebSocket frame received, in bytes."
    )
    send_timeout_s: float = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Seconds within which a client must take a live message, or is closed "
        "with 1013; the same window measures the pace at which an HTTP answer "
        "is taken.",
    )
    message_bytes_max: int = Field(
        16 * MIB, ge=MIB, le=GIB, description="Largest message of a live connection, in bytes."
    )
