"""How the index is built, searched and saved."""

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import MEMORY_MB_MAX, MINUTE_MS, THREADS_MAX, YEAR_S, Text


class IndexingSettings(FromEnvironment):
    """How the index is built, searched and saved."""

    index_batch_records: int = Field(
        2048, ge=1, le=1_000_000, description="Records applied in one step."
    )
    index_wait_ms: int = Field(
        200, ge=1, le=MINUTE_MS, description="Longest wait of one poll for records."
    )
    index_kind: str = Field(
        "auto",
        max_length=200,
        description="Of sealed segments: auto, Flat, or a Faiss factory string (IVF,SQ8; HNSW32).",
    )
    scanned_rows_max: int = Field(
        8_192,
        ge=1,
        le=1_000_000_000,
        description="Rows that each search scans; more than these get an index.",
    )
    target_recall: float = Field(
        0.95, gt=0, le=1, description="Recall@10 that searches are tuned to; 1: always exact."
    )
    index_mb_max: int = Field(
        0,
        ge=0,
        le=MEMORY_MB_MAX,
        description="Memory of one target's index; more gets coarser codes. 0: no limit.",
    )
    gpu_memory_mb: int = Field(
        8192,
        ge=0,
        le=MEMORY_MB_MAX,
        description="Of a GPU, for sealed segments; the rest stays on the CPU.",
    )
    rebuild_threads: int = Field(
        1, ge=1, le=THREADS_MAX, description="Threads of the process that builds."
    )
    snapshots: Text | None = Field(
        None,
        description="Where snapshots go: file:PATH, s3://BUCKET/PREFIX; none: the data directory.",
    )
    snapshot_every_s: float = Field(
        60.0, gt=0, le=YEAR_S, description="Snapshot when this old and changed."
    )
    snapshot_every_records: int = Field(
        100_000, ge=1, le=1_000_000_000_000, description="Snapshot after so many records applied."
    )
    snapshot_refresh_s: float = Field(
        900.0,
        gt=0,
        le=YEAR_S,
        description="An unchanged state is written again after this, for its time.",
    )
    snapshots_kept: int = Field(2, ge=1, le=1000, description="Snapshots kept.")
    stale_after_s: float = Field(
        3600.0,
        gt=0,
        le=YEAR_S,
        description="Not ready when last caught up this long ago, or min.compaction.lag.ms ago.",
    )
