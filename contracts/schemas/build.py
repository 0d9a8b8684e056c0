"""The contracts as documents: JSON Schemas, OpenAPI 3.1 (HTTP), AsyncAPI 3 (Kafka, WebSocket).

The documents are generated from the types, checked in beside this module, and served by nodes:

    python -m contracts.schemas.build            write the files
    python -m contracts.schemas.build --check    exit 1 if a file differs from what is generated
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from contracts.events.content_body import CaptionBody, ImageBody
from contracts.schemas import asyncapi, openapi
from contracts.wire.client_messages import ClientMessage, NewItem, Query
from contracts.wire.http_answers import Problem
from contracts.wire.server_messages import AnswerMessage, ServerMessage

FOLDER = Path(__file__).parent

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

Document = dict[str, Any]


@cache
def schema_documents() -> dict[str, Document]:
    """Return every document by its name; the file of a document is NAME.json."""
    return {
        "caption.v1": _schema(CaptionBody),
        "image.v1": _schema(ImageBody),
        "query": _schema(Query),
        "new-item": _schema(NewItem),
        "answer": _schema(AnswerMessage),
        "client-message": _schema(ClientMessage),
        "server-message": _schema(ServerMessage),
        "problem": _schema(Problem),
        "openapi": openapi.document(),
        "asyncapi": asyncapi.document(),
    }


def _schema(model: Any) -> Document:
    return {"$schema": _DIALECT, **TypeAdapter(model).json_schema()}


def dumped(document: Document) -> bytes:
    """Return a document as it is written to its file: in a stable order, indented for diffs."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document, option=options)


def outdated_documents() -> list[str]:
    """Return the names of the files that differ from what is generated now."""
    expected = {f"{name}.json": dumped(document) for name, document in schema_documents().items()}
    present = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    names = expected.keys() | present.keys()
    return sorted(name for name in names if expected.get(name) != present.get(name))


def write() -> None:
    """Write every document to its file."""
    FOLDER.mkdir(exist_ok=True)
    for name, document in schema_documents().items():
        (FOLDER / f"{name}.json").write_bytes(dumped(document))


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if stale := outdated_documents():
            sys.exit(f"outdated: {', '.join(stale)}; run python -m contracts.schemas.build")
    else:
        write()
