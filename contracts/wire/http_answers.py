"""The answers of HTTP beside search: problems, items, lag, readiness and status."""

from typing import Any, Literal

from pydantic import BaseModel

from contracts.events.content_body import Metadata
from contracts.topics import Target
from contracts.wire.client_messages import AsOfMessage, Token
from contracts.wire.server_messages import SourceMessage


class Problem(BaseModel):
    """A problem document (RFC 9457), with the members of Tidelens's errors where they are known."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    limit: Any = None
    value: Any = None


class Tokens(BaseModel):
    """The publish tokens of published records, in the order given."""

    tokens: list[Token]


class Item(BaseModel):
    """An item as it is indexed now."""

    id: str
    target: Target
    item: str | None
    text: str | None
    metadata: Metadata
    source: SourceMessage
    picture: str | None


class LagRow(BaseModel):
    """The lag of one group in one partition.

    `records` and `seconds` count up to `end`, the last stable offset. An open transaction holds the
    `unstable` records after it back. `members` is the number of processes that do the group's work,
    null where it is unknown. `gone` marks an index node that does not run, which `behind_s` leaves
    out.
    """

    role: Literal["encode", "index"]
    group: str
    topic: str
    partition: int
    position: int
    end: int
    records: int
    seconds: float
    space: str
    high_watermark: int
    unstable: int
    unstable_seconds: float
    members: int | None
    gone: bool


class LagAnswer(BaseModel):
    """The answer of GET /v1/lag; the rows are the last known ones while no broker is reachable.

    `space` is the space that answers. The rows are those of all its groups, and of the spaces that
    are kept or made beside it.
    """

    broker: Literal["unknown", "reachable", "unreachable"]
    space: str
    behind_s: float | None
    partitions: list[LagRow]


class LastSnapshot(BaseModel):
    """The last snapshot written: its name, its time (seconds since 1970), its duration."""

    name: str
    at: float
    seconds: float


class SnapshotFailure(BaseModel):
    """The reason and time of the last failed snapshot; null once a snapshot is written."""

    reason: str
    at: float


class SnapshotState(BaseModel):
    """The snapshots since this node's start.

    `chosen` is the snapshot that an operator chose for the next start. None is written until then.
    """

    last: LastSnapshot | None
    failure: SnapshotFailure | None
    chosen: str | None = None


class PartState(BaseModel):
    """A process that is started again when it ends; `reason` is why it ended last, or null."""

    role: Literal["broker", "encode", "query"]
    model: str | None
    running: bool
    restarts: int
    reason: str | None


class TopicsState(BaseModel):
    """Changes of the topics since they were created, and how to get more partitions.

    `misplaced` is the number of embeddings skipped since the start because they are in other
    partitions than those of their ids.
    """

    warnings: list[str]
    misplaced: int
    advice: str | None


class Readiness(BaseModel):
    """The answer of GET /readyz, with status 200 when ready and 503 when not."""

    ready: bool
    reason: str | None
    broker: Literal["unknown", "reachable", "unreachable"]
    behind_s: float | None
    snapshot: SnapshotState | None = None
    topics: TopicsState | None = None
    parts: list[PartState] = []


class SpaceInfo(BaseModel):
    """The vector space that is served."""

    name: str
    model: str
    revision: str
    dim: int
    metric: str
    fingerprint: str


class Status(Readiness):
    """The answer of GET /v1/status; it may get more members."""

    space: SpaceInfo
    shard: str
    replica: str
    time: float
    as_of: AsOfMessage | None
    items: dict[Target, int] | None
