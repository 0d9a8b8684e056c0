"""The AsyncAPI 3 document: what crosses Kafka and the live WebSocket."""

from typing import Any

from pydantic import BaseModel, TypeAdapter

from contracts.events import dead_letter
from contracts.events.content_event import EVENT_TYPES, ID_BYTES_MAX, CaptionBody, ImageBody
from contracts.topics import Names, Target
from contracts.wire.client_messages import ClientMessage
from contracts.wire.server_messages import ServerMessage

# The wire's version; a change that breaks an older reader needs a new one, and /v2 paths.
VERSION = "1.0.0"

Document = dict[str, Any]


def document() -> Document:
    """Topics with keys, headers and payloads, and the live WebSocket."""
    names = Names("tidelens.", "{space}")
    schemas: Document = {}
    channels: Document = {
        "live": _channel("/v1/live", "Live subscriptions.", ["FromClient", "FromServer"]),
        "deadLetters": _channel(
            names.dead_letters,
            "Refused records, untouched, with reasons; behind them, what became of each.",
            ["DeadLetter", "DeadLetterMark"],
        ),
    }
    messages: Document = {
        "FromClient": {"payload": _component(schemas, "ClientMessage", ClientMessage)},
        "FromServer": {"payload": _component(schemas, "ServerMessage", ServerMessage)},
        "DeadLetter": _dead_letter(),
        "DeadLetterMark": _dead_letter_mark(),
    }
    bodies: dict[Target, type[BaseModel]] = {"images": ImageBody, "captions": CaptionBody}
    for target, body in bodies.items():
        kind = target.removesuffix("s").capitalize()
        messages[kind] = _content_event(target, _component(schemas, f"{kind}Body", body))
        messages[f"{kind}Embedding"] = _embedding()
        channels[target] = _channel(
            names.content(target), "Content events; a null value deletes the item.", [kind]
        )
        channels[f"embeddings-{target}"] = {
            **_channel(
                names.embeddings(target),
                "Vectors of one space; a null value is a tombstone.",
                [f"{kind}Embedding"],
            ),
            "parameters": {"space": {"description": "Name of the vector space."}},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidelens",
            "version": VERSION,
            "description": "Topic names start with the collection's prefix, here `tidelens.`.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            "publishImages": _deed("receive", "images", ["Image"]),
            "publishCaptions": _deed("receive", "captions", ["Caption"]),
            "subscribeLive": _deed("receive", "live", ["FromClient"]),
            "pushLive": _deed("send", "live", ["FromServer"]),
            "refuse": _deed("send", "deadLetters", ["DeadLetter"]),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _component(schemas: Document, name: str, kind: Any) -> Document:
    """Put the type's schema, and those it refers to, among `schemas`; a reference to it."""
    schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
    return {"$ref": f"#/components/schemas/{name}"}


def _channel(address: str, description: str, messages: list[str]) -> Document:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _deed(action: str, channel: str, messages: list[str]) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": ID_BYTES_MAX,
    "description": f"The item's id: UTF-8, at most {ID_BYTES_MAX} bytes.",
}


def _headers(required: dict[str, Document], optional: dict[str, Document]) -> Document:
    return {
        "type": "object",
        "required": sorted(required),
        "properties": {**required, **optional},
    }


def _content_event(target: Target, payload: Document) -> Document:
    required: dict[str, Document] = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string"},
        "ce_source": {"type": "string"},
        "ce_type": {"const": EVENT_TYPES[target]},
    }
    optional: dict[str, Document] = {"content-type": {"type": "string"}}
    if target == "images":
        optional["ce_item"] = {"type": "string", "description": "With an image/* body: `item`."}
        optional["ce_metadata"] = {"type": "string", "description": "Then `metadata`, as JSON."}
    return {
        "summary": "A CloudEvent in binary mode"
        + ("; the body is JSON, or the picture itself." if target == "images" else "."),
        "headers": _headers(required, optional),
        "payload": payload,
        "bindings": {"kafka": {"key": _KEY}},
    }


def _embedding() -> Document:
    return {
        "summary": "A vector as documented in contracts/events/embedding_record.py, or null.",
        "contentType": "application/octet-stream",
        "headers": _headers(
            {
                "source": {"type": "string", "description": "TOPIC_ID:PARTITION:OFFSET"},
                "appended": {"type": "string", "description": "Milliseconds, of the content."},
            },
            {"reason": {"type": "string", "description": "Of a dead letter's tombstone."}},
        ),
        "bindings": {"kafka": {"key": _KEY}},
    }


def _dead_letter() -> Document:
    added = ("REASON", "MESSAGE", "STAGE", "ATTEMPTS", "SOURCE")
    return {
        "summary": "The original key, value and headers, and behind them why it was refused.",
        "contentType": "application/octet-stream",
        "headers": _headers(
            {getattr(dead_letter, n): {"type": "string"} for n in added},
            {
                dead_letter.SPACE: {
                    "type": "string",
                    "description": "The space that refused the record.",
                },
                dead_letter.TRUNCATED: {"type": "string", "description": "Bytes of the original."},
            },
        ),
        "bindings": {"kafka": {"key": {"type": "string"}}},
    }


def _dead_letter_mark() -> Document:
    return {
        "summary": "What became of a letter of this partition; the last mark of a letter counts.",
        "headers": _headers(
            {
                dead_letter.OF: {"type": "string", "description": "PARTITION:OFFSET of it."},
                dead_letter.OUTCOME: {"enum": list(dead_letter.OUTCOMES)},
            },
            {},
        ),
        "payload": {"type": "null"},
        "bindings": {"kafka": {"key": {"type": "string"}}},
    }
