"""The wire, version 1: what the server answers, and what it sends on a live connection.

What is sent is built as plain dictionaries (contracts/wire/message_json.py) and written by orjson.
The types say what these dictionaries hold: the schemas in contracts/schemas/ are generated from
them.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from contracts.events.content_event import Metadata
from contracts.topics import Target
from contracts.wire.client_messages import AsOfMessage, MessageModel


class SourceMessage(MessageModel):
    """The content record that a hit comes from."""

    topic: str
    partition: int
    offset: int


class HitMessage(MessageModel):
    """One hit as sent. `picture` is a URL path for images, else null."""

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
        description="The vector's numbers as IEEE 754 half precision, little-endian, in base64.",
    )


class WarningMessage(MessageModel):
    """Something that a filter asks for and no item has; the answer is right all the same."""

    code: Literal["unknown_field", "wrong_type"]
    field: str
    message: str


_Warnings = Annotated[
    list[WarningMessage],
    Field(default_factory=list, description="Absent where there is nothing to warn of."),
]


class AnswerMessage(MessageModel):
    """What POST /v1/search answers."""

    hits: list[HitMessage]
    as_of: AsOfMessage
    behind_s: float | None
    partial: bool
    shards_ok: int
    shards: int
    took_ms: float
    warnings: _Warnings


class LabelMessage(MessageModel):
    """A label, how likely it is among all of them, and its cosine."""

    label: str
    probability: float
    score: float


class ClassifyAnswer(MessageModel):
    """What POST /v1/classify answers: the likeliest first."""

    labels: list[LabelMessage]
    space: str
    logit_scale: float
    took_ms: float


class Change(MessageModel):
    """One change of a standing list; `hit` is absent for `leave`. Ranks are of the new list."""

    change: Literal["enter", "leave", "move", "update"]
    id: str
    rank: int | None = None
    hit: HitMessage | None = None


class Snapshot(MessageModel):
    type: Literal["snapshot"]
    sub: str
    hits: list[HitMessage]
    cursor: str
    warnings: _Warnings


class Delta(MessageModel):
    type: Literal["delta"]
    sub: str
    changes: list[Change]
    cursor: str


class Resumed(MessageModel):
    """The client's list is that of this cursor; in mode matches, what follows comes after it."""

    type: Literal["resumed"]
    sub: str
    cursor: str


class Match(MessageModel):
    """Mode matches: items newly applied that match. Their rank is 0: they are in no list."""

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
    """The cursor belongs to another space or log.

    A fresh snapshot follows, or the connection closes with 1012; then subscribe again.
    """

    type: Literal["reset"]
    sub: str
    reason: str


class ErrorMessage(MessageModel):
    """A refused message, or the end of a subscription; members as in a problem document."""

    type: Literal["error"]
    sub: str | None = None
    code: str
    message: str
    field: str | None = None
    limit: Any = None
    value: Any = None
    retry_after: Annotated[
        float | None, Field(description="Seconds; absent where the same would be refused again.")
    ] = None


class Pong(MessageModel):
    type: Literal["pong"]


ServerMessage = Annotated[
    Snapshot | Delta | Match | Resumed | Progress | Reset | ErrorMessage | Pong,
    Field(discriminator="type"),
]
