"""Settings of the snapshots of an index node."""

from typing import Annotated

from pydantic import Field

from contracts.settings.bounds import YEAR_S, Text
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic, Seconds, Unit


class SnapshotSettings(EnvironmentSettings):
    """The store of the snapshots, and the times at which one is written."""

    snapshots: Basic[Text | None] = Field(
        None,
        description="Store of the snapshots: file:PATH or s3://BUCKET/PREFIX. If it is unset, "
        "they are stored in the data directory.",
    )
    snapshots_kept: Annotated[int, Unit("snapshots")] = Field(
        2,
        ge=1,
        le=1000,
        description="Number of snapshots that each replica keeps. Older ones are deleted.",
    )
    snapshot_every_s: Seconds = Field(
        60.0,
        gt=0,
        le=YEAR_S,
        description="Time, in seconds, after the last snapshot until a changed state is written "
        "again. A failed attempt is repeated after the same time.",
    )
    snapshot_every_records: Annotated[int, Unit("records")] = Field(
        100_000,
        ge=1,
        le=1_000_000_000_000,
        description="Number of applied records after which a snapshot is written, even if the "
        "last one is younger than TIDELENS_SNAPSHOT_EVERY_S.",
    )
    snapshot_refresh_s: Seconds = Field(
        900.0,
        gt=0,
        le=YEAR_S,
        description="Time, in seconds, after the last snapshot until an unchanged state is written "
        "again. Only its time is new, so that it does not become too old to restore.",
    )
    snapshot_check_s: Seconds = Field(
        300.0,
        gt=0,
        le=YEAR_S,
        description="Time, in seconds, between two checks that the store still has all files of "
        "the snapshots. Files that are gone are written again.",
    )
