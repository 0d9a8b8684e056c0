"""Limits of requests and of their answers."""

from typing import Annotated

from pydantic import Field

from contracts.settings.bounds import GIB, MIB, YEAR_S
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Bytes, Seconds, Unit


class RequestSettings(EnvironmentSettings):
    """Limits of requests and of their answers."""

    k_max: Annotated[int, Unit("hits")] = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Largest k + offset of a query. A query that asks for more is refused.",
    )
    queries_max: Annotated[int, Unit("queries")] = Field(
        64,
        ge=1,
        le=10_000,
        description="Largest number of queries in one POST /v1/search. A request with more is "
        "refused with 413.",
    )
    publish_items_max: Annotated[int, Unit("items")] = Field(
        1000,
        ge=1,
        le=100_000,
        description="Largest number of items in one POST /v1/items. A request with more is "
        "refused with 413.",
    )
    classify_prompts_max: Annotated[int, Unit("texts")] = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Largest number of labels times templates in one POST /v1/classify. A request "
        "with more is refused with 413.",
    )
    wait_s_max: Seconds = Field(
        60.0,
        ge=0,
        le=YEAR_S,
        description="Longest time, in seconds, that a request may take, its `wait_for` included. "
        "Then it is answered with 504.",
    )
    body_bytes_max: Bytes = Field(
        32 * MIB,
        ge=1,
        le=GIB,
        description="Largest body of an HTTP request, in bytes. A larger one is refused with 413.",
    )
    body_values_max: Annotated[int, Unit("values")] = Field(
        1_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Largest number of JSON values in one body or frame, counted as commas plus "
        "two for each list or object and three for each member. One with more is refused.",
    )
    answer_bytes_max: Bytes = Field(
        32 * MIB,
        ge=MIB,
        le=GIB,
        description="Largest answer to one HTTP request, in bytes. A request for more is refused "
        "with `answer_too_large`.",
    )
    answers_bytes_max: Bytes = Field(
        256 * MIB,
        ge=MIB,
        le=64 * GIB,
        description="Total size, in bytes, of the answers and live messages in memory. Beyond it, "
        "a request is refused with 503, and a live message waits.",
    )
