"""How the index is built, searched and saved."""

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import MEMORY_MB_MAX, MINUTE_MS, THREADS_MAX, YEAR_S, Text


class IndexingSettings(FromEnvironment):
    """How the index is built, searched and saved."""

    index_batch_records: int = Field(
        2048, ge=1, le=1_000_000, description="Records applied to the index in one step."
    )
    index_wait_ms: int = Field(
        200,
        ge=1,
        le=MINUTE_MS,
        description="Longest wait, in milliseconds, of one poll for records.",
    )
    index_kind: str = Field(
        "auto",
        max_length=200,
        description="Index of sealed segments: auto, Flat, or a Faiss factory string "
        "(IVF,SQ8; HNSW32).",
    )
    scanned_rows_max: int = Field(
        8_192,
        ge=1,
        le=1_000_000_000,
        description="Rows that a search scans; a segment with more gets an index.",
    )
    target_recall: float = Field(
        0.95, gt=0, le=1, description="Recall@10 that searches are tuned to; 1: always exact."
    )
    index_mb_max: int = Field(
        0,
        ge=0,
        le=MEMORY_MB_MAX,
        description="Memory, in MiB, of one target's index; a larger index gets coarser "
        "codes. 0: no limit.",
    )
    gpu_memory_mb: int = Field(
        8192,
        ge=0,
        le=MEMORY_MB_MAX,
        description="GPU memory, in MiB, for sealed segments; the rest stays on the CPU.",
    )
    rebuild_threads: int = Field(
        1, ge=1, le=THREADS_MAX, description="Threads of the process that builds an index."
    )
    snapshots: Text | None = Field(
        None,
        description="Where snapshots are stored: file:PATH or s3://BUCKET/PREFIX. Unset: in "
        "the data directory.",
    )
    snapshot_every_s: float = Field(
        60.0,
        gt=0,
        le=YEAR_S,
        description="Age, in seconds, after which a changed state is written again.",
    )
    snapshot_every_records: int = Field(
        100_000,
        ge=1,
        le=1_000_000_000_000,
        description="Applied records after which a snapshot is written.",
    )
    snapshot_refresh_s: float = Field(
        900.0,
        gt=0,
        le=YEAR_S,
        description="Age, in seconds, after which an unchanged state is written again to "
        "renew its time.",
    )
    snapshot_check_s: float = Field(
        300.0,
        gt=0,
        le=YEAR_S,
        description="Seconds between two listings that show whether the store still has all that "
        "the snapshots need; what is gone is written again.",
    )
    snapshots_kept: int = Field(2, ge=1, le=1000, description="Number of snapshots kept.")
    stale_after_s: float = Field(
        3600.0,
        gt=0,
        le=YEAR_S,
        description="A node is not ready once it last caught up longer ago than this many "
        "seconds, or than the topic's min.compaction.lag.ms.",
    )
