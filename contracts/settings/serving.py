"""Limits of requests, answers and live connections."""

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import GIB, HOUR_S, MIB, YEAR_S


class ServingSettings(FromEnvironment):
    """Limits of requests, answers and live connections."""

    k_max: int = Field(1000, ge=1, le=1_000_000, description="Largest k + offset of a query.")
    answer_bytes_max: int = Field(
        32 * MIB, ge=MIB, le=GIB, description="Largest answer of one HTTP request."
    )
    answers_bytes_max: int = Field(
        256 * MIB,
        ge=MIB,
        le=64 * GIB,
        description="Answers in memory together; more are refused with 503.",
    )
    body_bytes_max: int = Field(32 * MIB, ge=1, le=GIB, description="Largest HTTP request body.")
    body_values_max: int = Field(
        1_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Values in one request body or frame: commas, and lists and objects twice.",
    )
    publish_items_max: int = Field(
        1000, ge=1, le=100_000, description="Items in one POST /v1/items."
    )
    queries_max: int = Field(64, ge=1, le=10_000, description="Queries in one POST /v1/search.")
    classify_prompts_max: int = Field(
        4096, ge=1, le=1_000_000, description="Labels times templates in one POST /v1/classify."
    )
    wait_s_max: float = Field(60.0, ge=0, le=YEAR_S, description="Longest wait_for.")
    connections_max: int = Field(1000, ge=0, le=1_000_000, description="Live connections.")
    subscriptions_max: int = Field(
        100, ge=0, le=1_000_000, description="Subscriptions on one connection."
    )
    standing_max: int = Field(
        100_000, ge=0, le=10_000_000, description="Subscriptions of one node."
    )
    idle_s_max: float = Field(
        300.0,
        gt=0,
        le=YEAR_S,
        description="A live connection without subscriptions is closed after this.",
    )
    standing_searches_max: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Live lists that wait to be searched; at more, no new ones.",
    )
    frame_bytes_max: int = Field(
        8 * MIB, ge=1, le=GIB, description="Largest WebSocket frame received."
    )
    send_timeout_s: float = Field(
        10.0, gt=0, le=HOUR_S, description="A client that takes longer is closed, 1013."
    )
    message_bytes_max: int = Field(
        16 * MIB, ge=MIB, le=GIB, description="Largest message of a live connection."
    )
