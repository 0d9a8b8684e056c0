"""The bodies of content events: what their JSON may hold, and its limits."""

from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from contracts.characters import require_visible
from contracts.wire.exact_json import find_inexact
from contracts.wire.validation import (
    discriminate_by,
    inexact_number_error,
    limit_error,
    member_error,
)

ID_BYTES_MAX = 512
TEXT_CHARS_MAX = 10_000
METADATA_BYTES_MAX = 16_384
# Names at the top level. A filter can name each of them, but not the names in nested objects.
METADATA_NAMES_MAX = 100
# Levels of nested objects and lists; the metadata itself is the first. orjson writes at most 254
# levels, and answers add levels around the metadata.
METADATA_DEPTH_MAX = 32

Metadata = dict[str, Any]
# The type of every text that is encoded, in items and in queries. The pattern is for readers of the
# schemas. It accepts zero-width characters, which the validator refuses.
Text = Annotated[
    str,
    Field(min_length=1, max_length=TEXT_CHARS_MAX, json_schema_extra={"pattern": r"\S"}),
    AfterValidator(require_visible),
]


class ContentBody(BaseModel):
    """The members that the bodies of all content events have."""

    # Unknown members are ignored, so that an older reader accepts what a newer writer adds.
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    item: Annotated[str, Field(min_length=1, max_length=ID_BYTES_MAX)] | None = Field(
        default=None, description="Groups things that belong together: a picture and its captions."
    )
    metadata: Metadata = Field(default_factory=dict, description="Flat members to show and filter.")

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, metadata: Metadata) -> Metadata:
        if len(metadata) > METADATA_NAMES_MAX:
            raise limit_error(METADATA_NAMES_MAX, "names", len(metadata))
        if _deeper_than(METADATA_DEPTH_MAX, metadata):
            raise ValueError(f"limit {METADATA_DEPTH_MAX} levels, got more")
        found = find_inexact(metadata)
        if found is not None:
            raise inexact_number_error(found)
        size = len(orjson.dumps(metadata))
        if size > METADATA_BYTES_MAX:
            raise limit_error(METADATA_BYTES_MAX, "bytes", size)
        return metadata


def _deeper_than(levels: int, value: Any) -> bool:
    """Return whether more than `levels` objects and lists are nested in each other."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(levels - 1, part) for part in parts)


class CaptionBody(ContentBody):
    """The JSON value of a `tidelens.caption.v1` event."""

    text: Text


class ImageData(BaseModel):
    """A picture: either inline as `data` in base64, or by reference as `ref` with its SHA-256."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    data: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="The picture's bytes in base64, or a data: URI."
    )
    ref: str | None = Field(default=None, description="A file:, https: or s3: URL.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "ImageData":
        if (self.data is None) == (self.ref is None):
            raise ValueError("exactly one of data and ref is needed")
        if self.ref is not None and self.sha256 is None:
            raise member_error("sha256", "a reference needs the SHA-256 of its bytes")
        return self


def _image_tag(value: Any) -> str | None:
    """Return which of the two forms of an image the value has: a string or an object."""
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict | BaseModel) else None


IMAGE_FORM = discriminate_by(
    _image_tag, "base64, a data: URI, a URL, or an object with data or ref"
)
Image = Annotated[
    Annotated[str, Tag("string")] | Annotated[ImageData, Tag("object")],
    IMAGE_FORM,
]


class ImageBody(ContentBody):
    """The JSON value of a `tidelens.image.v1` event."""

    image: ImageData
