"""The wire, version 1: what clients send, the same over HTTP and WebSocket.

The types are pydantic's, and the schemas in contracts/schemas/ are generated from them and from
those of contracts/wire/server_messages.py.
"""

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag, model_validator

from contracts.events.content_event import ID_BYTES_MAX, IMAGE_FORM, Image, Metadata, Text
from contracts.filters.json_form import Filter, parse
from contracts.prompts import TEMPLATES, require_distinct, require_slot
from contracts.topics import Target
from contracts.wire.validation import tagged, wrong

THROTTLE_MS_MAX = 3_600_000
REF_CHARS_MAX = 4_096
# Far more than any space has: bounds what is read before the dimension is looked at.
VECTOR_NUMBERS_MAX = 65_536
# Bounds the members of a message's objects; metadata and filters have bounds of their own.
MEMBERS_MAX = 64

_Id = Annotated[str, Field(min_length=1, max_length=ID_BYTES_MAX)]
# How a hit shows its vector: as JSON numbers, or compact.
Included = Literal["vector", "vector_f16"]
# Only the first fault is reported, and a million wrong numbers would be a million faults.
_Numbers = Annotated[list[float], Field(max_length=VECTOR_NUMBERS_MAX, fail_fast=True)]


class MessageModel(BaseModel):
    """What every message has in common: no unknown members, strict types, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, given: Any) -> Any:
        # Each unknown member would be an error of its own: half a million took a second.
        if isinstance(given, dict) and len(given) > MEMBERS_MAX:
            raise ValueError(f"limit {MEMBERS_MAX} members, got {len(given)}")
        return given


class Token(MessageModel):
    """Where a published record stands; `wait_for` takes it back."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]


class AsOfMessage(MessageModel):
    """The state an answer stands for; `wait_for` takes it back."""

    space: str
    epoch: str
    offsets: dict[Target, list[int]]


def _wait_for_tag(value: Any) -> str | None:
    """Name the form of `wait_for` that the value looks like; None if neither."""
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


class QueryImage(MessageModel):
    """A picture to look for: base64 `data`, or where it is."""

    data: str | None = Field(
        default=None, description="The picture's bytes in base64, or a data: URI."
    )
    ref: Annotated[str, Field(min_length=1, max_length=REF_CHARS_MAX)] | None = Field(
        default=None, description="An https: or s3: URL, read once, when the query comes."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="SHA-256 of the bytes that `ref` must name."
    )

    @model_validator(mode="after")
    def _one_of(self) -> "QueryImage":
        if (self.data is None) == (self.ref is None):
            raise ValueError("exactly one of data and ref is needed")
        if self.data is not None and self.sha256 is not None:
            raise wrong("sha256", "goes with `ref` only")
        return self


class _Part(MessageModel):
    """What to look for: exactly one of text, image, vector, id (with `of`)."""

    _kinds: ClassVar[tuple[str, ...]] = ("text", "image", "vector", "id")

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

    @model_validator(mode="after")
    def _one_kind(self) -> "_Part":
        given = [name for name in self._kinds if getattr(self, name) is not None]
        if len(given) != 1:
            names = f"{', '.join(self._kinds[:-1])} and {self._kinds[-1]}"
            got = ", ".join(given) or "none"
            raise ValueError(f"exactly one of {names} is needed, got {got}")
        if self.id is not None and self.of is None:
            raise wrong("of", "`id` needs it, images or captions")
        if self.of is not None and self.id is None:
            raise wrong("of", "goes with `id` only")
        return self


class FusePart(_Part):
    """One part of a fused query; negative weights push away."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0


class Query(_Part):
    """One search: exactly one of text, image, vector, id, fuse; the rest says how."""

    _kinds: ClassVar[tuple[str, ...]] = (*_Part._kinds, "fuse")

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
        description="Members added to each hit: `vector`, the vector's numbers; `vector_f16`, the "
        "same numbers in a seventh of the bytes.",
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
        """The filter, parsed once. Raises RejectedRequest `invalid_filter`."""
        if self.filter is None:
            return None
        return parse(self.filter)

    def checked(self) -> "Query":
        """Parse the filter now, which takes long if it is large; return the query.

        Raises as `condition` does.
        """
        if self.condition is not None:
            # Its key and its fields are computed when first asked for: do that now as well.
            hash(self.condition)
            self.condition.fields()
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


class NewItem(MessageModel):
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


class Subscribe(MessageModel):
    """Open a live subscription named `sub`, or resume one from `cursor`."""

    op: Literal["subscribe"]
    sub: Annotated[str, Field(min_length=1, max_length=64)]
    mode: Literal["top", "matches"] = "top"
    query: Query
    cursor: str | None = None
    throttle_ms: Annotated[int, Field(ge=0, le=THROTTLE_MS_MAX)] = Field(
        default=0, description="Mode top: least time between two messages, in milliseconds."
    )
    min_change: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Mode top: send a message only once an item enters or leaves, or a score has "
        "changed by this much since it was sent; 0: send every change.",
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


class Unsubscribe(MessageModel):
    """End the subscription named `sub`."""

    op: Literal["unsubscribe"]
    sub: str


class Ping(MessageModel):
    """Asks for a `pong`, for clients that cannot send WebSocket pings (browsers)."""

    op: Literal["ping"]


ClientMessage = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="op")]
