"""The wire, version 1: the messages of clients, the same over HTTP and WebSocket.

The schemas in contracts/schemas/ are generated from these pydantic models, and from those of
contracts/wire/server_messages.py.
"""

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag, model_validator

from contracts.events.content_body import ID_BYTES_MAX, IMAGE_FORM, Image, Metadata, Text
from contracts.filters.json_form import Filter, parse
from contracts.prompts import TEMPLATES, require_distinct, require_slot
from contracts.topics import Target
from contracts.wire.validation import discriminate_by, member_error

THROTTLE_MS_MAX = 3_600_000
REF_CHARS_MAX = 4_096
# Far more than any space has. It bounds what is read before the dimension is checked.
VECTOR_NUMBERS_MAX = 65_536
# Members of an object in a message; metadata and filters have limits of their own.
MEMBERS_MAX = 64

_Id = Annotated[str, Field(min_length=1, max_length=ID_BYTES_MAX)]
# The forms in which a hit can show its vector: JSON numbers, or a compact text.
Included = Literal["vector", "vector_f16"]
# Parsing stops at the first wrong number: a million of them would be a million errors.
_Numbers = Annotated[list[float], Field(max_length=VECTOR_NUMBERS_MAX, fail_fast=True)]


class MessageModel(BaseModel):
    """The base of all messages: strict types, no unknown members, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, given: Any) -> Any:
        # Each unknown member is an error of its own: half a million of them took a second.
        if isinstance(given, dict) and len(given) > MEMBERS_MAX:
            raise ValueError(f"limit {MEMBERS_MAX} members, got {len(given)}")
        return given


class Token(MessageModel):
    """A publish token: the position of a published record. `wait_for` accepts it."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]


class AsOfMessage(MessageModel):
    """The state that an answer stands for. `wait_for` accepts it."""

    space: str
    epoch: str
    offsets: dict[Target, list[int]]


def _wait_for_tag(value: Any) -> str | None:
    """Return which form of `wait_for` the value has, or None if neither."""
    if isinstance(value, BaseModel):
        return "token" if isinstance(value, Token) else "as_of"
    if not isinstance(value, dict):
        return None
    for tag, model in (("token", Token), ("as_of", AsOfMessage)):
        if model.model_fields.keys() & value.keys():
            return tag
    return None


_WAIT_FOR_FORM = discriminate_by(
    _wait_for_tag,
    "a publish token (topic, partition, offset) or an earlier as_of (space, epoch, offsets)",
)


class QueryImage(MessageModel):
    """A picture to search with: either inline as `data`, or by reference as `ref`."""

    data: str | None = Field(
        default=None, description="The picture's bytes in base64, or a data: URI."
    )
    ref: Annotated[str, Field(min_length=1, max_length=REF_CHARS_MAX)] | None = Field(
        default=None, description="An https: or s3: URL. It is read once, when the query arrives."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="The SHA-256 that the bytes at `ref` must have."
    )

    @model_validator(mode="after")
    def _one_of(self) -> "QueryImage":
        if (self.data is None) == (self.ref is None):
            raise ValueError("exactly one of data and ref is needed")
        if self.data is not None and self.sha256 is not None:
            raise member_error("sha256", "goes with `ref` only")
        return self


class _QueryInput(MessageModel):
    """The input of a query: exactly one of text, image, vector and id (with `of`)."""

    _inputs: ClassVar[tuple[str, ...]] = ("text", "image", "vector", "id")

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
    of: Target | None = Field(default=None, description="The target of the item `id`.")

    @model_validator(mode="after")
    def _require_one_input(self) -> "_QueryInput":
        given = [name for name in self._inputs if getattr(self, name) is not None]
        if len(given) != 1:
            names = f"{', '.join(self._inputs[:-1])} and {self._inputs[-1]}"
            got = ", ".join(given) or "none"
            raise ValueError(f"exactly one of {names} is needed, got {got}")
        if self.id is not None and self.of is None:
            raise member_error("of", "`id` needs it, images or captions")
        if self.of is not None and self.id is None:
            raise member_error("of", "goes with `id` only")
        return self


class FusePart(_QueryInput):
    """A part of a fused query. A negative weight moves the query away from its input."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0


class Query(_QueryInput):
    """A search: exactly one of text, image, vector, id and fuse, with options."""

    _inputs: ClassVar[tuple[str, ...]] = (*_QueryInput._inputs, "fuse")

    fuse: Annotated[list[FusePart], Field(min_length=1, max_length=16)] | None = None
    target: Target = "images"
    k: Annotated[int, Field(ge=1)] = 10
    offset: Annotated[int, Field(ge=0)] = 0
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    filter: dict[str, Any] | None = Field(
        default=None,
        description="Only items whose metadata matches are returned; docs/filters.md has the "
        "grammar.",
    )
    exact: bool = False
    collapse: Literal["item"] | None = None
    include: Annotated[list[Included], Field(max_length=16)] = Field(
        default_factory=list,
        description="Members to add to each hit: `vector`, the numbers of the vector; "
        "`vector_f16`, the same numbers in a seventh of the bytes.",
    )
    wait_for: (
        Annotated[
            Annotated[Token, Tag("token")] | Annotated[AsOfMessage, Tag("as_of")], _WAIT_FOR_FORM
        ]
        | None
    ) = None
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @cached_property
    def parsed_filter(self) -> Filter | None:
        """The filter, parsed once. Raises RejectedRequest `invalid_filter`."""
        if self.filter is None:
            return None
        return parse(self.filter)

    def parse_filter(self) -> "Query":
        """Parse the filter now, which takes long for a large one, and return the query.

        Raises RejectedRequest `invalid_filter`.
        """
        if self.parsed_filter is not None:
            # Compute the cached key and fields now, too.
            hash(self.parsed_filter)
            self.parsed_filter.fields()
        return self


class Classify(_QueryInput):
    """The body of POST /v1/classify: find which of `labels` fits one text, image, vector or id."""

    labels: Annotated[
        list[Text], Field(min_length=1, fail_fast=True), AfterValidator(require_distinct)
    ]
    templates: Annotated[
        list[Annotated[Text, AfterValidator(require_slot)]], Field(min_length=1)
    ] = Field(
        default=list(TEMPLATES),
        description="Prompt templates; each label replaces the `{}` of each template.",
    )
    k: Annotated[int, Field(ge=1)] = Field(default=5, description="The number of labels to return.")
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class NewItem(MessageModel):
    """An item to publish by POST /v1/items or from a JSON Lines file, with a text or an image."""

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
            raise member_error(needed, f"target {self.target} needs it")
        if getattr(self, other) is not None:
            raise member_error(other, f"target {self.target} takes {needed} only")
        return self


class Subscribe(MessageModel):
    """Open a live subscription named `sub`, or resume one from `cursor`."""

    op: Literal["subscribe"]
    sub: Annotated[str, Field(min_length=1, max_length=64)]
    mode: Literal["top", "matches"] = "top"
    query: Query
    cursor: str | None = None
    throttle_ms: Annotated[int, Field(ge=0, le=THROTTLE_MS_MAX)] = Field(
        default=0, description="Mode top: the least time between two messages, in milliseconds."
    )
    min_change: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Mode top: send a message only when an item enters or leaves, or when a score "
        "has changed by at least this much since it was sent. 0: send every change.",
    )

    @model_validator(mode="after")
    def _of_its_mode(self) -> "Subscribe":
        if self.mode == "matches":
            if self.query.collapse is not None:
                raise member_error("query.collapse", "mode matches reports every item")
            for name in ("throttle_ms", "min_change"):
                if getattr(self, name):
                    raise member_error(name, "goes with mode top only")
        return self


class Unsubscribe(MessageModel):
    """End the subscription named `sub`."""

    op: Literal["unsubscribe"]
    sub: str


class Ping(MessageModel):
    """A request for a `pong`, for clients that cannot send WebSocket pings, such as browsers."""

    op: Literal["ping"]


ClientMessage = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="op")]
