"""Settings of how an index node encodes the texts and pictures of queries."""

from typing import Annotated

from pydantic import AfterValidator, Field

from contracts.prompts import PLAIN, require_slot
from contracts.settings.bounds import HOUR_S, MEMORY_MB_MAX, MINUTE_MS, Text
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Mebibytes, Pixels, Seconds, Unit


class QuerySettings(EnvironmentSettings):
    """Settings of the encoding of queries, their texts and their pictures."""

    query_templates: list[Annotated[Text, AfterValidator(require_slot)]] = Field(
        default_factory=lambda: list(PLAIN),
        min_length=1,
        max_length=128,
        description="Sentences that the text of a query is put into, in place of {}, before it is "
        "encoded (JSON list). Their vectors are averaged.",
    )
    query_batch_max: Annotated[int, Unit("inputs")] = Field(
        32,
        ge=1,
        le=4096,
        description="Largest number of pictures, or of texts in each template, that are encoded "
        "together for queries. More wait for the next batch.",
    )
    query_queue_max: Annotated[int, Unit("queries")] = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Largest number of texts of queries that wait to be encoded. Beyond it, a "
        "query is refused with 429.",
    )
    query_cache_max: Annotated[int, Unit("vectors")] = Field(
        4096,
        ge=0,
        le=10_000_000,
        description="Number of vectors of queries that are kept in memory. Beyond it, the one "
        "used longest ago is dropped; 0 keeps none.",
    )
    query_encode_timeout_s: Seconds = Field(
        60.0,
        gt=0,
        le=HOUR_S,
        description="Longest time, in seconds, for the model to encode a batch of queries. Then "
        "its process is started again, and those queries get 503.",
    )
    query_pictures_max: Annotated[int, Unit("pictures")] = Field(
        64,
        ge=1,
        le=10_000,
        description="Largest number of pictures of queries that have arrived and are not yet "
        "encoded. Beyond it, a query is refused with 429.",
    )
    query_pictures_mb: Mebibytes = Field(
        64,
        ge=1,
        le=MEMORY_MB_MAX,
        description="Size, in MiB, of all pictures of queries that have arrived and are not yet "
        "encoded. Beyond it, a query is refused with 429. Decoded ones may take as much again.",
    )
    query_pictures_at_once: Annotated[int, Unit("pictures")] = Field(
        8,
        ge=1,
        le=10_000,
        description="Number of pictures of one request that are read and encoded at the same "
        "time. The others of that request wait.",
    )
    query_picture_turn_ms: Annotated[float, Unit("ms")] = Field(
        25.0,
        gt=0,
        le=MINUTE_MS,
        description="Time, in milliseconds, for which pictures may keep the model from texts that "
        "wait. A single picture may take longer.",
    )
    query_image_pixels_max: Pixels = Field(
        25_000_000,
        ge=1,
        le=1_000_000_000,
        description="Largest picture of a query, in pixels, width times height. A larger one is "
        "refused.",
    )
    query_decode_seconds_max: Seconds = Field(
        2.0,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, for decoding a query's picture of the largest "
        "size. A picture that takes longer is refused.",
    )
    query_decode_seconds_min: Seconds = Field(
        0.5,
        gt=0,
        le=HOUR_S,
        description="Processor time, in seconds, that decoding any picture of a query may take. "
        "From there the limit grows with the pixels, up to the maximum.",
    )
    query_decode_processes: Annotated[int, Unit("processes")] = Field(
        1,
        ge=1,
        le=256,
        description="Number of processes that decode the pictures of queries. Each may take "
        "TIDELENS_DECODE_MEMORY_MB.",
    )
    query_reference_timeout_s: Seconds = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Longest time, in seconds, to fetch the picture that a query's image.ref "
        "names. Then the query is answered with 504.",
    )
