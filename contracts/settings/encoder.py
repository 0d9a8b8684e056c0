"""Settings of encoders: how they read the content topics and fill the model's batches."""

import os
from typing import Annotated

from pydantic import Field

from contracts.settings.bounds import MEMORY_MB_MAX, MINUTE_MS, THREADS_MAX
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic, Mebibytes, Milliseconds, Unit


class EncoderSettings(EnvironmentSettings):
    """Settings of reading the content topics, filling the batches, and committing."""

    encode_metrics_port: Basic[int] = Field(
        9464,
        ge=0,
        le=65535,
        description="Port of an encoder's /metrics and health checks; 0 serves none. If only the "
        "default is taken, the encoder uses another free port and logs it.",
    )
    encode_threads: Basic[Annotated[int, Unit("threads")]] = Field(
        0,
        ge=0,
        le=THREADS_MAX,
        description="Number of threads of the model, and of processes that decode pictures. "
        "0 takes one for each core.",
    )
    encode_batch_pictures: Annotated[int, Unit("pictures")] = Field(
        32,
        ge=1,
        le=4096,
        description="Largest number of pictures that the model encodes in one batch. A batch that "
        "does not fit into memory is halved.",
    )
    encode_batch_captions: Annotated[int, Unit("captions")] = Field(
        256,
        ge=1,
        le=65_536,
        description="Largest number of captions that the model encodes in one batch. A batch that "
        "does not fit into memory is halved.",
    )
    encode_ahead_batches: Annotated[int, Unit("batches")] = Field(
        4,
        ge=2,
        le=1000,
        description="Number of batches that one partition may have fetched and not yet committed. "
        "At the limit, no more of it is fetched.",
    )
    encode_ahead_mb: Mebibytes = Field(
        256,
        ge=1,
        le=MEMORY_MB_MAX,
        description="Size, in MiB, of the records that one target may have fetched and not yet "
        "committed. Decoded pictures that wait for the model may take as much again.",
    )
    encode_known_max: Annotated[int, Unit("vectors")] = Field(
        32_768,
        ge=0,
        le=100_000_000,
        description="Number of vectors kept in memory for inputs that come again. Beyond it, the "
        "one used longest ago is dropped; 0 keeps none.",
    )
    encode_wait_ms: Milliseconds = Field(
        200,
        ge=1,
        le=MINUTE_MS,
        description="Longest wait, in milliseconds, of one poll for new records. The next poll "
        "follows at once.",
    )
    encode_drain_ms: Milliseconds = Field(
        1_000,
        ge=0,
        le=10 * MINUTE_MS,
        description="Time, in milliseconds, that a rebalance leaves for committing the batches "
        "under way. What is not done by then is encoded again by the next owner.",
    )
    encode_session_ms: Milliseconds = Field(
        10_000,
        ge=1_000,
        le=30 * MINUTE_MS,
        description="Kafka's session.timeout.ms of encoders, in milliseconds. An encoder that is "
        "silent for longer loses its partitions to the others.",
    )

    @property
    def encode_threads_used(self) -> int:
        """`encode_threads`, or the number of cores of this process where that is 0."""
        return self.encode_threads or len(os.sched_getaffinity(0))
