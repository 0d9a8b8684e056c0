"""The AsyncAPI 3 document: what crosses Kafka and the live WebSocket."""

from typing import Any

from pydantic import BaseModel, TypeAdapter

from contracts.events import dead_letter
from contracts.events.content_body import ID_BYTES_MAX, CaptionBody, ImageBody
from contracts.events.content_event import EVENT_TYPES
from contracts.topics import Names, Target
from contracts.wire.client_messages import ClientMessage
from contracts.wire.server_messages import ServerMessage

# The version of the wire. A change that breaks an older reader needs a new version and /v2 paths.
VERSION = "1.0.0"

Document = dict[str, Any]


def document() -> Document:
    """Return the document: topics with keys, headers and payloads, and the live WebSocket."""
    names = Names("tidelens.", "{space}")
    schemas: Document = {}
    channels: Document = {
        "live": _channel("/v1/live", "Live subscriptions.", ["FromClient", "FromServer"]),
        "deadLetters": _channel(
            names.dead_letters,
            "Refused records, unchanged, each with its reason; later, what was done with each.",
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
        name = target.removesuffix("s").capitalize()
        messages[name] = _content_event(target, _component(schemas, f"{name}Body", body))
        messages[f"{name}Embedding"] = _embedding()
        channels[target] = _channel(
            names.content(target), "Content events; a null value deletes the item.", [name]
        )
        channels[f"embeddings-{target}"] = {
            **_channel(
                names.embeddings(target),
                "Vectors of one space; a null value is a tombstone.",
                [f"{name}Embedding"],
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
            "publishImages": _operation("receive", "images", ["Image"]),
            "publishCaptions": _operation("receive", "captions", ["Caption"]),
            "subscribeLive": _operation("receive", "live", ["FromClient"]),
            "pushLive": _operation("send", "live", ["FromServer"]),
            "refuse": _operation("send", "deadLetters", ["DeadLetter"]),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _component(schemas: Document, name: str, model: Any) -> Document:
    """Add a type's schema, and those that it refers to, to `schemas`. Return a reference to it."""
    schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
    return {"$ref": f"#/components/schemas/{name}"}


def _channel(address: str, description: str, messages: list[str]) -> Document:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _operation(action: str, channel: str, messages: list[str]) -> Document:
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
        optional["ce_item"] = {
            "type": "string",
            "description": "The member `item`, where the body is the picture itself.",
        }
        optional["ce_metadata"] = {
            "type": "string",
            "description": "The member `metadata` as JSON, where the body is the picture itself.",
        }
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
                "appended": {
                    "type": "string",
                    "description": "Append time of the content record, in milliseconds.",
                },
            },
            {
                "reason": {
                    "type": "string",
                    "description": "Why the content record was refused, on its tombstone.",
                }
            },
        ),
        "bindings": {"kafka": {"key": _KEY}},
    }


def _dead_letter() -> Document:
    added = ("REASON", "MESSAGE", "STAGE", "ATTEMPTS", "SOURCE")
    return {
        "summary": "The original key, value and headers, then headers that say why it was refused.",
        "contentType": "application/octet-stream",
        "headers": _headers(
            {getattr(dead_letter, n): {"type": "string"} for n in added},
            {
                dead_letter.SPACE: {
                    "type": "string",
                    "description": "The space that refused the record.",
                },
                dead_letter.TRUNCATED: {
                    "type": "string",
                    "description": "Size of the original in bytes, where the letter is cut.",
                },
            },
        ),
        "bindings": {"kafka": {"key": {"type": "string"}}},
    }


def _dead_letter_mark() -> Document:
    return {
        "summary": "What was done with a letter of this partition; its last mark counts.",
        "headers": _headers(
            {
                dead_letter.MARK_LETTER: {
                    "type": "string",
                    "description": "PARTITION:OFFSET of the letter.",
                },
                dead_letter.OUTCOME: {"enum": list(dead_letter.OUTCOMES)},
            },
            {},
        ),
        "payload": {"type": "null"},
        "bindings": {"kafka": {"key": {"type": "string"}}},
    }
