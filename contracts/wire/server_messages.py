"""The wire, version 1: the answers of the server, and its messages on a live connection.

Messages are built as plain dictionaries (contracts/wire/message_json.py) and written by orjson. The
types describe these dictionaries: the schemas in contracts/schemas/ are generated from them.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from contracts.events.content_body import Metadata
from contracts.topics import Target
from contracts.wire.client_messages import AsOfMessage, MessageModel


class SourceMessage(MessageModel):
    """The position of the content record that a hit comes from."""

    topic: str
    partition: int
    offset: int


class HitMessage(MessageModel):
    """A hit. `picture` is the URL path of the picture, and null for captions."""

    id: str
    target: Target
    rank: int
    score: float
    item: str | None
    text: str | None
    metadata: Metadata
    source: SourceMessage
    picture: str | None
    vector: list[float] | None = None
    vector_f16: str | None = Field(
        default=None,
        description="The vector's numbers in IEEE 754 half precision, little-endian, in base64.",
    )


class WarningMessage(MessageModel):
    """A warning that no item has what a filter names. The answer is right nevertheless."""

    code: Literal["unknown_field", "wrong_type"]
    field: str
    message: str


_Warnings = Annotated[
    list[WarningMessage],
    Field(default_factory=list, description="Absent where there is no warning."),
]


class AnswerMessage(MessageModel):
    """The answer of POST /v1/search."""

    hits: list[HitMessage]
    as_of: AsOfMessage
    behind_s: float | None
    partial: bool
    shards_ok: int
    shards: int
    took_ms: float
    warnings: _Warnings


class LabelMessage(MessageModel):
    """A label with its probability among all labels and its cosine."""

    label: str
    probability: float
    score: float


class ClassifyAnswer(MessageModel):
    """The answer of POST /v1/classify, the most probable label first."""

    labels: list[LabelMessage]
    space: str
    logit_scale: float
    took_ms: float


class Change(MessageModel):
    """A change of a standing list. `hit` is absent for `leave`; ranks are those of the new list."""

    change: Literal["enter", "leave", "move", "update"]
    id: str
    rank: int | None = None
    hit: HitMessage | None = None


class Snapshot(MessageModel):
    """The whole list of a subscription, and its cursor."""

    type: Literal["snapshot"]
    sub: str
    hits: list[HitMessage]
    cursor: str
    warnings: _Warnings


class Delta(MessageModel):
    """The changes of a list since the last message, applied as one step, and the new cursor."""

    type: Literal["delta"]
    sub: str
    changes: list[Change]
    cursor: str


class Resumed(MessageModel):
    """The subscription goes on from this cursor; in mode top, the client's list is unchanged."""

    type: Literal["resumed"]
    sub: str
    cursor: str


class Match(MessageModel):
    """Mode matches: newly applied items that match. Their rank is 0, since they are in no list."""

    type: Literal["match"]
    sub: str
    hits: list[HitMessage]
    cursor: str


class Progress(MessageModel):
    """Mode matches: all matches up to this cursor have been sent."""

    type: Literal["progress"]
    sub: str
    cursor: str


class Reset(MessageModel):
    """The cursor belongs to another space or log, so the client's list is void.

    A new snapshot follows, or the connection closes with 1012 and the client subscribes again.
    """

    type: Literal["reset"]
    sub: str
    reason: str


class ErrorMessage(MessageModel):
    """A refused message, or the end of a subscription. The members are those of a problem."""

    type: Literal["error"]
    sub: str | None = None
    code: str
    message: str
    field: str | None = None
    limit: Any = None
    value: Any = None
    retry_after: Annotated[
        float | None,
        Field(description="Seconds to wait; absent where the same would be refused again."),
    ] = None


class Pong(MessageModel):
    """The answer to a ping."""

    type: Literal["pong"]


ServerMessage = Annotated[
    Snapshot | Delta | Match | Resumed | Progress | Reset | ErrorMessage | Pong,
    Field(discriminator="type"),
]
