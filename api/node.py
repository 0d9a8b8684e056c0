"""The ports of one node that the API uses, wired by the command that serves it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from contracts.metrics import Metrics
from contracts.ports.clock import Clock
from contracts.ports.encoder import QueryEncoder
from contracts.ports.event_log import EventLog
from contracts.ports.index_admin import IndexAdmin
from contracts.ports.lag import LagSource
from contracts.ports.pictures import PictureConverter, ReferenceReader
from contracts.ports.search import AppliedBatches, IndexProgress, Matcher, Searcher
from contracts.settings import Settings
from contracts.space import Space
from contracts.supervision.side_tasks import SideTasks
from contracts.topics import Names


@dataclass(frozen=True, slots=True)
class Node:
    """The ports that the API answers from.

    `references` reads the references of queries, and `picture_references` those of published items,
    which may be local files. `exposed` has all metrics that /metrics shows. `status` returns
    members of /v1/status that only the wiring knows, such as dead letters and digests.
    `recent_queries` returns the texts of recent queries, on which another space is compared with
    this one. `side` supervises the tasks that run beside the answers.
    """

    space: Space
    names: Names
    settings: Settings
    searcher: Searcher
    progress: IndexProgress
    feed: AppliedBatches
    log: EventLog
    queries: QueryEncoder
    references: ReferenceReader
    picture_references: ReferenceReader
    converter: PictureConverter
    lag: LagSource
    admin: IndexAdmin
    matcher: Matcher
    metrics: Metrics
    exposed: CollectorRegistry
    clock: Clock
    status: Callable[[], Mapping[str, Any]]
    recent_queries: Callable[[], list[str]] = list
    side: SideTasks = field(default_factory=SideTasks)
