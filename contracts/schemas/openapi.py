"""The OpenAPI 3.1 document: the HTTP routes of a node."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from contracts.events.content_body import ID_BYTES_MAX
from contracts.schemas import asyncapi
from contracts.topics import TARGETS
from contracts.wire.client_messages import Classify, NewItem, Query
from contracts.wire.http_answers import Item, LagAnswer, Problem, Readiness, Status, Tokens
from contracts.wire.server_messages import AnswerMessage, ClassifyAnswer, HitMessage

Document = dict[str, Any]

_MODELS: tuple[type[BaseModel], ...] = (
    *(Query, NewItem, AnswerMessage, HitMessage, Tokens, Item, Classify, ClassifyAnswer),
    *(Problem, LagAnswer, Readiness, Status),
)


def document() -> Document:
    """Return the OpenAPI document of all HTTP routes."""
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
        "description": "The whole rest of the path, percent-decoded; it may have slashes. An id "
        "with a segment of `.` or `..`, which clients resolve, is given in the query instead.",
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
        # Relative to this document, so that it is right behind a proxy with a path prefix too.
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
                    "description": "A problem document (RFC 9457).",
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
    """Return the route of live lists as server-sent events.

    The WebSocket is in the AsyncAPI document.
    """
    operation = _operation(
        "One live subscription as server-sent events",
        {"type": "string"},
        media_type="text/event-stream",
    )
    descriptions = {
        "q": "The text of the query; `id` and `of` may be given instead.",
        "query": "A whole query as JSON, instead of the parameters for its members.",
        "filter": "A filter, as JSON or as text.",
        "cursor": "The cursor to resume from; the header Last-Event-ID takes precedence.",
        "mode": "The mode: top or matches.",
    }
    members = ("id", "of", "target", "k", "min_score", "collapse", "throttle_ms", "min_change")
    operation["parameters"] = [
        {"name": name, "in": "query", "schema": {"type": "string"}} | described
        for name in (*descriptions, *members)
        for described in ({"description": descriptions[name]} if name in descriptions else {},)
    ]
    return operation


def _admin() -> Document:
    """Return the routes of an operator's commands (the port IndexAdmin)."""
    answer, some = {"type": "object"}, {"type": "array", "items": {"enum": list(TARGETS)}}
    body = {"type": "object", "properties": {"targets": some}}
    rebuild = _operation("Merge all segments into new ones", answer, body=body)
    rebuild["requestBody"]["required"] = False
    named = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    restore = _operation("Restore this snapshot at the next start", answer, body=named)
    return {
        "/v1/admin/snapshot": {"post": _operation("Write a snapshot now", answer)},
        "/v1/admin/restore": {"post": restore},
        "/v1/admin/rebuild": {"post": rebuild},
        "/v1/admin/segments": {"get": _operation("Segments and their tuning", answer)},
        "/v1/admin/queries": {"get": _operation("Texts of recent queries", answer)},
        "/v1/admin/verify": {"post": _operation("Recompute the digests", answer)},
    }


def _readyz() -> Document:
    # A request with an unknown Host header gets the state alone.
    state = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
    operation = _operation("Ready to answer", {"anyOf": [_ref("Readiness"), state]})
    not_ready = {**operation["responses"]["200"], "description": "Not ready; `reason` says why."}
    operation["responses"]["503"] = not_ready
    return operation


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_list(name: str) -> Document:
    return {"oneOf": [_ref(name), {"type": "array", "items": _ref(name)}]}
