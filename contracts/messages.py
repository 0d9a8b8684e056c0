"""The wire, version 1: queries, items, live messages, problems. The same in HTTP and WebSocket.

Parsing is pydantic's; what we send is built as plain dictionaries and dumped by orjson, typed
here so that the schemas in contracts/schemas/ are generated from one place.
"""

from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from contracts.errors import RejectedRequest
from contracts.events import (
    ID_BYTES_MAX,
    IMAGE_FORM,
    Image,
    Metadata,
    Text,
)
from contracts.exact_json import NumberBeyond, loads
from contracts.filter_warnings import FilterWarning
from contracts.filters import Filter, parse
from contracts.hits import Hit
from contracts.item_urls import picture_path
from contracts.ports import AsOf, Lag
from contracts.prompts import TEMPLATES, require_distinct, require_slot
from contracts.topics import Target
from contracts.validation import first_fault, tagged, wrong

WireHit = dict[str, Any]

THROTTLE_MS_MAX = 3_600_000
REF_CHARS_MAX = 4_096
# Far more than any space has: bounds what is read before the dimension is looked at.
VECTOR_NUMBERS_MAX = 65_536
# Of one object, whose names are known; metadata and filters have bounds of their own.
MEMBERS_MAX = 64

_Id = Annotated[str, Field(min_length=1, max_length=ID_BYTES_MAX)]
# How a hit shows its vector: as JSON numbers, or compact.
Included = Literal["vector", "vector_f16"]
# One fault is told: of a million wrong numbers, each would be kept.
_Numbers = Annotated[list[float], Field(max_length=VECTOR_NUMBERS_MAX, fail_fast=True)]
_Model = TypeVar("_Model", bound=BaseModel)


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, given: Any) -> Any:
        # Each unknown one would be an error of its own: half a million took a second.
        if isinstance(given, dict) and len(given) > MEMBERS_MAX:
            raise ValueError(f"limit {MEMBERS_MAX} members, got {len(given)}")
        return given


class Token(_Message):
    """Where a published record stands; `wait_for` takes it back."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]


class AsOfMessage(_Message):
    """The state an answer stands for; `wait_for` takes it back."""

    space: str
    epoch: str
    offsets: dict[Target, list[int]]


def _wait_for_tag(value: Any) -> str | None:
    """Return which of the two forms of `wait_for` the value looks like."""
    if isinstance(value, BaseModel):
        return "token" if isinstance(value, Token) else "as_of"
    if not isinstance(value, dict):
        return None
    for tag, model in (("token", Token), ("as_of", AsOfMessage)):
        if model.model_fields.keys() & value.keys():
            return tag
    return None


_WAIT_FOR_FORM = tagged(
    _wait_for_tag,
    "a publish token (topic, partition, offset) or an earlier as_of (space, epoch, offsets)",
)


class QueryImage(_Message):
    """A picture to look for: base64 `data`, or where it is."""

    data: str | None = Field(
        default=None, description="The picture's bytes in base64, or a data: URI."
    )
    ref: Annotated[str, Field(min_length=1, max_length=REF_CHARS_MAX)] | None = Field(
        default=None, description="An https: or s3: URL, read once, when the query comes."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="Of the bytes that `ref` must name."
    )

    @model_validator(mode="after")
    def _one_of(self) -> "QueryImage":
        if (self.data is None) == (self.ref is None):
            raise ValueError("exactly one of data and ref is needed")
        if self.data is not None and self.sha256 is not None:
            raise wrong("sha256", "goes with `ref` only")
        return self


class _Part(_Message):
    """What to look for: exactly one of text, image, vector, id (with `of`)."""

    text: Text | None = None
    image: (
        Annotated[Annotated[str, Tag("string")] | Annotated[QueryImage, Tag("object")], IMAGE_FORM]
        | None
    ) = Field(
        default=None,
        description="The picture's bytes in base64, a data: URI, or an https: or s3: URL.",
    )
    vector: _Numbers | None = None
    id: _Id | None = None
    of: Target | None = Field(default=None, description="Which target `id` is of.")

    def kinds(self) -> list[str]:
        names = ("text", "image", "vector", "id")
        return [name for name in names if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _id_with_of(self) -> "_Part":
        if self.id is not None and self.of is None:
            raise wrong("of", "`id` needs it, images or captions")
        if self.of is not None and self.id is None:
            raise wrong("of", "goes with `id` only")
        return self


class FusePart(_Part):
    """One part of a fused query; negative weights push away."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _one_kind(self) -> "FusePart":
        if len(self.kinds()) != 1:
            raise ValueError("exactly one of text, image, vector and id is needed")
        return self


class Query(_Part):
    """One search: exactly one of text, image, vector, id, fuse; the rest says how."""

    fuse: Annotated[list[FusePart], Field(min_length=1, max_length=16)] | None = None
    target: Target = "images"
    k: Annotated[int, Field(ge=1)] = 10
    offset: Annotated[int, Field(ge=0)] = 0
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    filter: dict[str, Any] | None = Field(
        default=None, description="Keeps items by their metadata; docs/filters.md has the grammar."
    )
    exact: bool = False
    collapse: Literal["item"] | None = None
    include: Annotated[list[Included], Field(max_length=16)] = Field(
        default_factory=list,
        description="What hits show beside their members: `vector`, its numbers; `vector_f16`, the "
        "same in a seventh of the bytes.",
    )
    wait_for: (
        Annotated[
            Annotated[Token, Tag("token")] | Annotated[AsOfMessage, Tag("as_of")], _WAIT_FOR_FORM
        ]
        | None
    ) = None
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @cached_property
    def condition(self) -> Filter | None:
        """The filter as it is evaluated. Raises RejectedRequest `invalid_filter`."""
        if self.filter is None:
            return None
        return parse(self.filter)

    def checked(self) -> "Query":
        """The same, once its filter is read: of a large one that takes long. Raises as above."""
        if self.condition is not None:
            # Its key and its fields as well, which are found when they are first asked for.
            hash(self.condition)
            self.condition.fields()
        return self

    @model_validator(mode="after")
    def _one_question(self) -> "Query":
        kinds = self.kinds() + (["fuse"] if self.fuse is not None else [])
        if len(kinds) != 1:
            got = ", ".join(kinds) or "none"
            raise ValueError(
                f"exactly one of text, image, vector, id and fuse is needed, got {got}"
            )
        return self


class Classify(_Part):
    """What POST /v1/classify asks: which of `labels` fits one text, image, vector or id best."""

    labels: Annotated[
        list[Text], Field(min_length=1, fail_fast=True), AfterValidator(require_distinct)
    ]
    templates: Annotated[
        list[Annotated[Text, AfterValidator(require_slot)]], Field(min_length=1)
    ] = Field(default=list(TEMPLATES), description="Each label is put into each, in place of `{}`.")
    k: Annotated[int, Field(ge=1)] = Field(default=5, description="How many labels to answer.")
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_question(self) -> "Classify":
        kinds = self.kinds()
        if len(kinds) != 1:
            got = ", ".join(kinds) or "none"
            raise ValueError(f"exactly one of text, image, vector and id is needed, got {got}")
        return self


class NewItem(_Message):
    """One item of POST /v1/items and of a JSON Lines file: exactly one of text and image."""

    target: Target
    id: _Id
    text: Text | None = None
    image: Image | None = Field(default=None, description="Base64, a data: URI, or a reference.")
    item: _Id | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _content(self) -> "NewItem":
        needed, other = ("image", "text") if self.target == "images" else ("text", "image")
        if getattr(self, needed) is None:
            raise wrong(needed, f"target {self.target} needs it")
        if getattr(self, other) is not None:
            raise wrong(other, f"target {self.target} takes {needed} only")
        return self


class Subscribe(_Message):
    """Open a live subscription named `sub`, or resume one from `cursor`."""

    op: Literal["subscribe"]
    sub: Annotated[str, Field(min_length=1, max_length=64)]
    mode: Literal["top", "matches"] = "top"
    query: Query
    cursor: str | None = None
    throttle_ms: Annotated[int, Field(ge=0, le=THROTTLE_MS_MAX)] = Field(
        default=0, description="Mode top: milliseconds at least between two messages."
    )
    min_change: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Mode top: told only once an item enters or leaves, or a score has changed by "
        "this much since it was sent; 0: told of everything.",
    )

    @model_validator(mode="after")
    def _of_its_mode(self) -> "Subscribe":
        if self.mode == "matches":
            if self.query.collapse is not None:
                raise wrong("query.collapse", "mode matches reports every item")
            for name in ("throttle_ms", "min_change"):
                if getattr(self, name):
                    raise wrong(name, "goes with mode top only")
        return self


class Unsubscribe(_Message):
    """End the subscription named `sub`."""

    op: Literal["unsubscribe"]
    sub: str


class Ping(_Message):
    """Asks for a `pong`, for clients that cannot send WebSocket pings (browsers)."""

    op: Literal["ping"]


ClientMessage = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="op")]
_CLIENT_MESSAGE: TypeAdapter[Subscribe | Unsubscribe | Ping] = TypeAdapter(ClientMessage)
_SUBSCRIBE: TypeAdapter[Subscribe] = TypeAdapter(Subscribe)
_CLASSIFY: TypeAdapter[Classify] = TypeAdapter(Classify)
_QUERIES: TypeAdapter[list[Query]] = TypeAdapter(Annotated[list[Query], Field(fail_fast=True)])
_ITEMS = Annotated[list[NewItem], Field(fail_fast=True)]
_NEW_ITEMS: TypeAdapter[list[NewItem]] = TypeAdapter(_ITEMS)


class SourceMessage(_Message):
    """The content record that a hit comes from."""

    topic: str
    partition: int
    offset: int


class HitMessage(_Message):
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


class WarningMessage(_Message):
    """What a query's filter asks for that no item has: the answer is right all the same."""

    code: Literal["unknown_field", "wrong_type"]
    field: str
    message: str


_Warnings = Annotated[
    list[WarningMessage],
    Field(default_factory=list, description="Absent where there is nothing to warn of."),
]


class AnswerMessage(_Message):
    """What POST /v1/search answers."""

    hits: list[HitMessage]
    as_of: AsOfMessage
    behind_s: float | None
    partial: bool
    shards_ok: int
    shards: int
    took_ms: float
    warnings: _Warnings


class LabelMessage(_Message):
    """A label, how likely it is among all of them, and its cosine."""

    label: str
    probability: float
    score: float


class ClassifyAnswer(_Message):
    """What POST /v1/classify answers: the likeliest first."""

    labels: list[LabelMessage]
    space: str
    logit_scale: float
    took_ms: float


class Change(_Message):
    """One change of a standing list; `hit` is absent for `leave`. Ranks are of the new list."""

    change: Literal["enter", "leave", "move", "update"]
    id: str
    rank: int | None = None
    hit: HitMessage | None = None


class Snapshot(_Message):
    type: Literal["snapshot"]
    sub: str
    hits: list[HitMessage]
    cursor: str
    warnings: _Warnings


class Delta(_Message):
    type: Literal["delta"]
    sub: str
    changes: list[Change]
    cursor: str


class Resumed(_Message):
    """The list is that of this cursor; in mode matches, what follows comes after it."""

    type: Literal["resumed"]
    sub: str
    cursor: str


class Match(_Message):
    """Mode matches: items newly applied that match. Their rank is 0: they are in no list."""

    type: Literal["match"]
    sub: str
    hits: list[HitMessage]
    cursor: str


class Progress(_Message):
    """Mode matches: nothing matched up to this cursor but what was told."""

    type: Literal["progress"]
    sub: str
    cursor: str


class Reset(_Message):
    """The cursor belongs to another space or log.

    A fresh snapshot follows, or the connection closes with 1012; then subscribe anew.
    """

    type: Literal["reset"]
    sub: str
    reason: str


class ErrorMessage(_Message):
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


class Pong(_Message):
    type: Literal["pong"]


ServerMessage = Annotated[
    Snapshot | Delta | Match | Resumed | Progress | Reset | ErrorMessage | Pong,
    Field(discriminator="type"),
]


def parse_json(raw: bytes | str, field: str = "body") -> Any:
    """JSON, its integers exact; or RejectedRequest `invalid_json`, `invalid_request`."""
    try:
        return loads(raw)
    except NumberBeyond as error:
        found = error.beyond
        # The members of a body are named by themselves.
        path = [part for part in (field, found.field) if part]
        at = ".".join(path[1:] if field == "body" and found.field else path)
        raise RejectedRequest(
            "invalid_request",
            f"{at}: {found.message}",
            field=at,
            limit=found.limit,
            value=found.value,
        ) from None
    except ValueError as error:
        message = f"{field}: not JSON ({error})"
        raise RejectedRequest("invalid_json", message, field=field) from None


def parse_queries(body: Any, *, queries_max: int) -> list[Query]:
    """A query or a list of them. Raises RejectedRequest naming the field."""
    queries = body if isinstance(body, list) else [body]
    _bounded("queries", len(queries), queries_max)
    return _validated(_QUERIES, queries, unlisted=not isinstance(body, list))


def parse_classify(body: Any) -> Classify:
    """Raises RejectedRequest naming the field."""
    return _validated(_CLASSIFY, body)


def parse_new_items(body: Any, *, items_max: int) -> list[NewItem]:
    """An item or a list of them. Raises RejectedRequest naming the field."""
    items = body if isinstance(body, list) else [body]
    _bounded("items", len(items), items_max)
    return _validated(_NEW_ITEMS, items, unlisted=not isinstance(body, list))


def parse_client_message(raw: str) -> Subscribe | Unsubscribe | Ping:
    """One WebSocket message of a client. Raises RejectedRequest naming the field."""
    return _validated(_CLIENT_MESSAGE, parse_json(raw))


def parse_subscribe(body: Any) -> Subscribe:
    """The same of one that is known to subscribe."""
    return _validated(_SUBSCRIBE, body)


_Parsed = TypeVar("_Parsed")


def _validated(adapter: TypeAdapter[_Parsed], body: Any, *, unlisted: bool = False) -> _Parsed:
    try:
        return adapter.validate_python(body)
    except ValidationError as error:
        fault = first_fault(error, body)
        # A single query is checked as a list of one, whose index its sender did not write.
        field = fault.field.partition(".")[2] if unlisted else fault.field
        raise RejectedRequest(
            "invalid_request",
            f"{field or 'body'}: {fault.message}",
            field=field or "body",
            limit=fault.limit,
            value=fault.value,
        ) from None


def _bounded(field: str, value: int, limit: int) -> None:
    if value > limit:
        raise RejectedRequest(
            "too_many",
            f"{field}: limit {limit}, got {value}",
            status=413,
            field=field,
            limit=limit,
            value=value,
        )


def wire_hit(hit: Hit, include: Collection[str] = ("vector",)) -> WireHit:
    """A hit as it is sent (HitMessage's members), with its vector where it has one."""
    topic, partition, offset = hit.source
    wire: WireHit = {
        "id": hit.id,
        "target": hit.target,
        "rank": hit.rank,
        "score": hit.score,
        "item": hit.item,
        "text": hit.text,
        "metadata": dict(hit.metadata or {}),
        "source": {"topic": topic, "partition": partition, "offset": offset},
        "picture": picture_path(hit.id) if hit.target == "images" else None,
    }
    if hit.vector is not None and "vector" in include:
        wire["vector"] = [float(number) for number in hit.vector]
    if hit.vector is not None and "vector_f16" in include:
        wire["vector_f16"] = b64encode(hit.vector.astype("<f2").tobytes()).decode()
    return wire


def wire_warnings(warnings: Sequence[FilterWarning]) -> dict[str, Any]:
    """The member `warnings` as it is sent (WarningMessage's members), if there are any."""
    return {"warnings": [asdict(warning) for warning in warnings]} if warnings else {}


def wire_as_of(as_of: AsOf) -> dict[str, Any]:
    """A state as it is sent (AsOfMessage's members)."""
    return {
        "space": as_of.space,
        "epoch": as_of.epoch,
        "offsets": {target: list(offsets) for target, offsets in as_of.offsets.items()},
    }


def wire_lag(
    lags: Sequence[Lag], *, space: str, broker: str, behind_s: float | None
) -> dict[str, Any]:
    """Lag as it is sent, and printed by the command (LagAnswer's members)."""
    rows = [wire_lag_row(lag) for lag in lags]
    return {"broker": broker, "space": space, "behind_s": behind_s, "partitions": rows}


def wire_lag_row(lag: Lag) -> dict[str, Any]:
    """One of its rows (LagRow's members)."""
    # By hand: dataclasses.asdict takes ten times as long, and there may be thousands.
    return {
        "role": lag.role,
        "group": lag.group,
        "topic": lag.topic,
        "partition": lag.partition,
        "position": lag.position,
        "end": lag.end,
        "records": lag.records,
        "seconds": round(lag.seconds, 3),
        "space": lag.space,
    }


def read_as_of(message: AsOfMessage) -> AsOf:
    """The inverse of `wire_as_of`."""
    return AsOf(message.space, message.epoch, message.offsets)
