"""Settings of an index node: how it follows the log, and which indexes it builds."""

from typing import Annotated

from pydantic import Field

from contracts.settings.bounds import MEMORY_MB_MAX, MINUTE_MS, THREADS_MAX, YEAR_S
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic, Mebibytes, Milliseconds, Seconds, Unit


class IndexSettings(EnvironmentSettings):
    """Settings of following the embeddings topics, and of building indexes."""

    shard: str = Field(
        "0",
        max_length=50,
        pattern=r"^[a-z0-9-]+$",
        description="Name of the shard that this index node holds, part of the names of its "
        "consumer group and snapshots.",
    )
    replica: Basic[str] = Field(
        "0",
        max_length=50,
        pattern=r"^[a-z0-9-]+$",
        description="Name of this index node among the replicas of its shard. Two nodes that run "
        "at the same time must not share one.",
    )
    target_recall: Basic[float] = Field(
        0.95,
        gt=0,
        le=1,
        description="Recall@10 that approximate searches are tuned to reach. With 1, every search "
        "is exact and slower.",
    )
    gpu_memory_mb: Basic[Mebibytes] = Field(
        8192,
        ge=0,
        le=MEMORY_MB_MAX,
        description="Memory of the GPU, in MiB, for sealed segments. Segments beyond it are "
        "searched on the CPU; 0 uses no GPU.",
    )
    index_kind: str = Field(
        "auto",
        max_length=200,
        description="Type of the index of sealed segments: `auto` chooses it by the number of "
        "rows, `Flat` scans, and a Faiss factory string such as `IVF,SQ8` or `HNSW32` is built as "
        "given.",
    )
    index_mb_max: Mebibytes = Field(
        0,
        ge=0,
        le=MEMORY_MB_MAX,
        description="Memory, in MiB, for the index of one target; an index that would be larger "
        "gets coarser codes. 0 sets no limit.",
    )
    scanned_rows_max: Annotated[int, Unit("rows")] = Field(
        8_192,
        ge=1,
        le=1_000_000_000,
        description="Largest number of rows of a segment that searches scan. A segment with more "
        "rows gets an index.",
    )
    rebuild_threads: Annotated[int, Unit("threads")] = Field(
        1,
        ge=1,
        le=THREADS_MAX,
        description="Number of threads of the process that builds an index. More build faster and "
        "slow searches down meanwhile.",
    )
    index_batch_records: Annotated[int, Unit("records")] = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="Largest number of records that are applied to the index in one step. The rest "
        "follows in the next step.",
    )
    index_wait_ms: Milliseconds = Field(
        200,
        ge=1,
        le=MINUTE_MS,
        description="Longest wait, in milliseconds, of one poll for new records. The next poll "
        "follows at once.",
    )
    stale_after_s: Seconds = Field(
        3600.0,
        gt=0,
        le=YEAR_S,
        description="Age, in seconds, of the last moment at which the node had caught up, beyond "
        "which it is not ready. The topic's min.compaction.lag.ms counts instead where it is "
        "shorter.",
    )
