"""The contracts as documents: JSON Schemas, OpenAPI 3.1 (HTTP), AsyncAPI 3 (Kafka, WebSocket).

Generated from the types into contracts/schemas/, checked in, and served from here:

    python -m contracts.schemas.build            write them
    python -m contracts.schemas.build --check    exit 1 when what is checked in differs
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from contracts.events.content_event import ID_BYTES_MAX, CaptionBody, ImageBody, Metadata
from contracts.schemas import asyncapi
from contracts.topics import TARGETS, Target
from contracts.wire.client_messages import (
    AsOfMessage,
    Classify,
    ClientMessage,
    NewItem,
    Query,
    Token,
)
from contracts.wire.server_messages import (
    AnswerMessage,
    ClassifyAnswer,
    HitMessage,
    ServerMessage,
    SourceMessage,
)

FOLDER = Path(__file__).parent

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

Document = dict[str, Any]


class Problem(BaseModel):
    """RFC 9457, with the members that every error of ours has where they are known."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    limit: Any = None
    value: Any = None


class Tokens(BaseModel):
    """Where each published record stands, in the order given."""

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
    """How far one group is behind in one partition.

    `records` and `seconds` count up to `end`, the last stable offset; an open transaction holds the
    `unstable` records beyond it back. `members` is how many processes do the group's work, null
    where that is not known. `gone` marks an index node that does not run, which `behind_s` leaves
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
    """GET /v1/lag; the rows are the last known ones while the broker is unreachable.

    `space` answers; the rows are of every group of it, and of the spaces kept or made beside it.
    """

    broker: Literal["unknown", "reachable", "unreachable"]
    space: str
    behind_s: float | None
    partitions: list[LagRow]


class LastSnapshot(BaseModel):
    """The last snapshot written: its name, when (seconds since the epoch), how long it took."""

    name: str
    at: float
    seconds: float


class SnapshotFailure(BaseModel):
    """Why the last try failed, and when; gone once one is written."""

    reason: str
    at: float


class SnapshotState(BaseModel):
    """Since this node's start. `chosen`: an operator's, for the next start; none is written now."""

    last: LastSnapshot | None
    failure: SnapshotFailure | None
    chosen: str | None = None


class PartState(BaseModel):
    """A process that is started again when it ends; `reason` says why it ended last, if it did."""

    role: Literal["broker", "encode", "query"]
    model: str | None
    running: bool
    restarts: int
    reason: str | None


class TopicsState(BaseModel):
    """What has changed since the topics were made, and how to get more partitions.

    `misplaced` counts embeddings skipped since the start because they are in other partitions than
    their ids say.
    """

    warnings: list[str]
    misplaced: int
    advice: str | None


class Readiness(BaseModel):
    """GET /readyz, with 200 when ready and 503 when not."""

    ready: bool
    reason: str | None
    broker: Literal["unknown", "reachable", "unreachable"]
    behind_s: float | None
    snapshot: SnapshotState | None = None
    topics: TopicsState | None = None
    parts: list[PartState] = []


class SpaceInfo(BaseModel):
    """The vector space served."""

    name: str
    model: str
    revision: str
    dim: int
    metric: str
    fingerprint: str


class Status(Readiness):
    """GET /v1/status; more members may follow."""

    space: SpaceInfo
    shard: str
    replica: str
    time: float
    as_of: AsOfMessage | None
    items: dict[Target, int] | None


_MODELS: tuple[type[BaseModel], ...] = (
    *(Query, NewItem, AnswerMessage, HitMessage, Tokens, Item, Classify, ClassifyAnswer),
    *(Problem, LagAnswer, Readiness, Status),
)


@cache
def documents() -> dict[str, Document]:
    """Every document by its name; the file is NAME.json."""
    return {
        "caption.v1": _schema(CaptionBody),
        "image.v1": _schema(ImageBody),
        "query": _schema(Query),
        "new-item": _schema(NewItem),
        "answer": _schema(AnswerMessage),
        "client-message": _schema(ClientMessage),
        "server-message": _schema(ServerMessage),
        "problem": _schema(Problem),
        "openapi": _openapi(),
        "asyncapi": asyncapi.document(),
    }


def _schema(kind: Any) -> Document:
    return {"$schema": _DIALECT, **TypeAdapter(kind).json_schema()}


def _openapi() -> Document:
    _, definitions = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    target = {
        "name": "target",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(TARGETS)},
    }
    item_id = {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "The whole rest of the path, percent-decoded; it may hold slashes. An id "
        "with a segment of `.` or `..`, which clients resolve, stands in the query instead.",
        "schema": {"type": "string", "maxLength": ID_BYTES_MAX},
    }
    any_id = {**item_id, "in": "query", "description": "Any id, percent-encoded."}
    item = {
        "get": _operation("An item as it is indexed", _ref("Item")),
        "delete": _operation("Delete an item", _ref("Tokens")),
    }
    picture = {"get": _operation("A picture", {"type": "string"}, media_type="image/*")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidelens", "version": asyncapi.VERSION},
        # Relative to this document, so that it holds behind a proxy's prefix, too.
        "servers": [{"url": "."}],
        "paths": {
            "/v1/search": {
                "post": _operation("Search", _or_list("AnswerMessage"), body=_or_list("Query"))
            },
            "/v1/classify": {
                "post": _operation(
                    "Zero-shot classification", _ref("ClassifyAnswer"), body=_ref("Classify")
                )
            },
            "/v1/items": {
                "post": _operation("Publish items", _ref("Tokens"), body=_or_list("NewItem"))
            },
            "/v1/items/{target}/{id}": {"parameters": [target, item_id], **item},
            "/v1/items/{target}": {"parameters": [target, any_id], **item},
            "/v1/pictures/{id}": {"parameters": [item_id], **picture},
            "/v1/pictures": {"parameters": [any_id], **picture},
            "/v1/live": {"get": _live()},
            "/v1/lag": {"get": _operation("Lag by group and partition", _ref("LagAnswer"))},
            "/v1/status": {"get": _operation("The node's state", _ref("Status"))},
            **_admin(),
            "/metrics": {
                "get": _operation("Prometheus metrics", {"type": "string"}, media_type="text/plain")
            },
            "/healthz": {
                "get": _operation(
                    "Alive", {"type": "object", "properties": {"alive": {"const": True}}}
                )
            },
            "/readyz": {"get": _readyz()},
        },
        "components": {
            "schemas": definitions["$defs"],
            "responses": {
                "Problem": {
                    "description": "An error, as RFC 9457 tells it.",
                    "content": {"application/problem+json": {"schema": _ref("Problem")}},
                }
            },
        },
    }


def _operation(
    summary: str,
    answer: Document,
    *,
    body: Document | None = None,
    media_type: str = "application/json",
) -> Document:
    operation: Document = {
        "summary": summary,
        "responses": {
            "200": {"description": "Done.", "content": {media_type: {"schema": answer}}},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return operation


def _live() -> Document:
    """The live protocol as server-sent events; the WebSocket is in the AsyncAPI document."""
    operation = _operation(
        "One live subscription as server-sent events",
        {"type": "string"},
        media_type="text/event-stream",
    )
    said = {
        "q": "The query's text; `id` and `of` stand for it.",
        "query": "A whole query as JSON, instead of the parameters for its members.",
        "filter": "As JSON or as text.",
        "cursor": "Where to go on from; the header Last-Event-ID wins.",
        "mode": "top, matches",
    }
    members = ("id", "of", "target", "k", "min_score", "collapse", "throttle_ms", "min_change")
    operation["parameters"] = [
        {"name": name, "in": "query", "schema": {"type": "string"}} | described
        for name in (*said, *members)
        for described in ({"description": said[name]} if name in said else {},)
    ]
    return operation


def _admin() -> Document:
    """What an operator asks of a running node; see the port IndexAdmin."""
    answer, some = {"type": "object"}, {"type": "array", "items": {"enum": list(TARGETS)}}
    body = {"type": "object", "properties": {"targets": some}}
    rebuild = _operation("Build sealed segments anew", answer, body=body)
    rebuild["requestBody"]["required"] = False
    named = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    restore = _operation("Begin from this snapshot at the next start", answer, body=named)
    return {
        "/v1/admin/snapshot": {"post": _operation("Write a snapshot now", answer)},
        "/v1/admin/restore": {"post": restore},
        "/v1/admin/rebuild": {"post": rebuild},
        "/v1/admin/segments": {"get": _operation("Sealed segments and their tuning", answer)},
        "/v1/admin/queries": {"get": _operation("Texts asked lately", answer)},
        "/v1/admin/verify": {"post": _operation("Recompute the digests", answer)},
    }


def _readyz() -> Document:
    # Under a Host that is not a name of this server, only the state is shown.
    state = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
    operation = _operation("Ready to answer", {"anyOf": [_ref("Readiness"), state]})
    not_ready = {**operation["responses"]["200"], "description": "Not ready; `reason` says why."}
    operation["responses"]["503"] = not_ready
    return operation


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_list(name: str) -> Document:
    return {"oneOf": [_ref(name), {"type": "array", "items": _ref(name)}]}


def dumped(document: Document) -> bytes:
    """As the files hold it: stable, and readable in a diff."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document, option=options)


def differing() -> list[str]:
    """Names of the documents that are not as checked in."""
    expected = {f"{name}.json": dumped(document) for name, document in documents().items()}
    present = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    names = expected.keys() | present.keys()
    return sorted(name for name in names if expected.get(name) != present.get(name))


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, document in documents().items():
        (FOLDER / f"{name}.json").write_bytes(dumped(document))


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if stale := differing():
            sys.exit(f"not as generated: {', '.join(stale)}; run python -m contracts.schemas.build")
    else:
        write()
