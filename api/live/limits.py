"""The limits of live subscriptions that are not settings, with what each one bounds. No I/O.

The settings of an operator (contracts/settings/live.py) bound what clients may ask for. These here
bound how much the node does at a time, so that one client or one batch does not hold up the others.
"""

from dataclasses import dataclass, field

from api.http.time_slices import SLICE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLimits:
    """Bounds of alerts that are matched with batches as these are applied."""

    # Hits that wait to be sent, of one alert and of all. Further ones are read from the log once
    # there is room.
    pending_max: int = 4096
    pending_of_all_max: int = 500_000
    # Matches of one batch that are handled on the event loop: 15 ms.
    inline_matches_max: int = 4096
    # Hits of one message.
    message_hits_max: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayLimits:
    """Bounds of the passes over the log that bring alerts up to the index."""

    # Passes at a time.
    passes_max: int = 2
    # Alerts of one pass; and how many that wait are examined to find them.
    alerts_max: int = 1024
    examined_max: int = 4096
    # Records between two states that are near each other.
    near_records_max: int = 20_000
    # Records of one fetch, and how long it waits for them.
    fetch_records_max: int = 1024
    fetch_ms: int = 100
    # Records after which a pass ends, so that others get theirs.
    pass_records_max: int = 50_000
    # Records that are matched on the event loop.
    inline_records_max: int = 128
    # Matches of one fetch, in a thread and on the event loop. The alerts with the most matches are
    # read for in another pass.
    matches_max: int = 32_768
    inline_matches_max: int = 4096
    # Pause before the next try when the index or Kafka is not ready.
    retry_s: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ListLimits:
    """Bounds of standing lists, and of the batches that wait to be applied to them."""

    # Items that a list holds beyond its k, so that as many must go before it is searched again: at
    # least so many, and so many times k.
    spare_items_min: int = 10
    spare_items_per_k: int = 1
    # Rows of the batches that are kept for searches under way. A search during which more rows
    # arrive is started again.
    recent_rows_max: int = 65_536
    # Pairs of a standing query and a new item that are matched on the event loop: they take 3 ms.
    inline_pairs_max: int = 1024 * 256
    # Rows of the batches that wait to be applied. If there are more, all lists are searched again:
    # that is quicker by then, and batches that wait take memory.
    waiting_rows_max: int = 65_536
    # How long lists are changed before other tasks run.
    slice_s: float = SLICE_S

    def wanted(self, k: int) -> int:
        """Return how many items a list of the best `k` should begin with."""
        return k + max(self.spare_items_per_k * k, self.spare_items_min)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimits:
    """All limits of live subscriptions."""

    lists: ListLimits = field(default_factory=ListLimits)
    alerts: AlertLimits = field(default_factory=AlertLimits)
    replay: ReplayLimits = field(default_factory=ReplayLimits)
