"""Settings of every process: its files, its logs, and how often it is restarted."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from contracts.settings.bounds import HOUR_S
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic, Seconds
from contracts.user_folders import user_data_dir


class ProcessSettings(EnvironmentSettings):
    """Files, logs and restarts of a process."""

    data: Basic[Path] = Field(
        default_factory=user_data_dir,
        description="Directory for the files of Tidelens and of the broker that `tidelens up` "
        "runs. Two nodes of one shard and replica cannot share it.",
    )
    log_format: Basic[Literal["auto", "human", "json"]] = Field(
        "auto",
        description="Format of the log lines on stderr. `auto` is `human` on a terminal and "
        "`json` otherwise.",
    )
    restart_pause_max_s: Seconds = Field(
        60.0,
        ge=0.01,
        le=HOUR_S,
        description="Longest pause, in seconds, before a child process that ended is started "
        "again. Pauses double from 0.5 s up to it, and start over once a process has run that "
        "long.",
    )
