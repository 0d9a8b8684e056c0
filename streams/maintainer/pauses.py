"""The pauses of a maintainer's loop."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MaintainerPauses:
    """The pauses of a maintainer's loop, in seconds.

    The broker is asked for the topics' ids every `check_ids_s` while records come, and every
    `check_ids_idle_s` while none do. A start that failed is repeated after `retry_s`.
    """

    check_ids_s: float = 2.0
    check_ids_idle_s: float = 10.0
    retry_s: float = 1.0
