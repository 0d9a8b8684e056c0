"""The checked-in schemas match the types, and never break a reader of an older version."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from pydantic import TypeAdapter

from contracts.events.content_body import CaptionBody, ImageBody
from contracts.schemas import build
from contracts.wire.client_messages import ClientMessage, NewItem, Query
from contracts.wire.http_answers import Problem
from contracts.wire.server_messages import AnswerMessage, ServerMessage

EXAMPLES = sorted((build.FOLDER / "examples").glob("*.json"))
TYPES: dict[str, Any] = {
    "caption.v1": CaptionBody,
    "image.v1": ImageBody,
    "query": Query,
    "new-item": NewItem,
    "answer": AnswerMessage,
    "client-message": ClientMessage,
    "server-message": ServerMessage,
    "problem": Problem,
}


def test_what_is_checked_in_is_what_the_types_say() -> None:
    assert build.outdated_documents() == [], "run python -m contracts.schemas.build"


def test_drift_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FOLDER", tmp_path / "schemas")
    assert build.outdated_documents() == sorted(f"{name}.json" for name in build.schema_documents())
    build.write()
    assert build.outdated_documents() == []
    (tmp_path / "schemas" / "query.json").write_text("{}")
    (tmp_path / "schemas" / "old.json").write_text("{}")
    assert build.outdated_documents() == ["old.json", "query.json"]


def test_every_type_has_examples_of_its_first_version() -> None:
    assert {name_of(path) for path in EXAMPLES} == TYPES.keys()


def name_of(path: Path) -> str:
    return path.name.rsplit(".", 2)[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_what_was_written_in_version_1_is_still_read(path: Path) -> None:
    """The examples are never edited: what breaks them breaks a user's stream or program as well."""
    name = name_of(path)
    for example in orjson.loads(path.read_bytes()):
        jsonschema.validate(example, build.schema_documents()[name])
        TypeAdapter(TYPES[name]).validate_python(example)


@pytest.mark.parametrize("name", ["caption.v1", "image.v1"])
def test_events_may_gain_members(name: str) -> None:
    """An older reader of the log accepts what a newer writer adds."""
    [path] = [path for path in EXAMPLES if name_of(path) == name]
    for example in orjson.loads(path.read_bytes()):
        TypeAdapter(TYPES[name]).validate_python({**example, "added_later": 1})


@pytest.mark.parametrize("name", TYPES)
def test_the_schemas_are_valid_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(build.schema_documents()[name])


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
def test_every_reference_leads_somewhere(name: str) -> None:
    document = build.schema_documents()[name]
    raw = orjson.dumps(document).decode()
    references = set(re.findall(r'"#(/[^"]+)"', raw))
    assert references
    for reference in references:
        place: Any = document
        for part in reference[1:].split("/"):
            place = place[part.replace("~1", "/")]
    assert '"#/$defs/' not in raw


def test_every_route_of_the_api_is_in_the_openapi_document() -> None:
    from tests.kits.api_kit import Kit

    served = {
        (re.sub(":rest", "", route.path), method.lower())
        for route in Kit().app.routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD" and not route.path.endswith(".json") and route.path != "/"
    }
    documented = {
        (path, method)
        for path, item in build.schema_documents()["openapi"]["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert served == documented


def test_a_breaking_change_would_be_caught() -> None:
    """Validation of the old examples fails if a schema requires a new member."""
    example = orjson.loads((build.FOLDER / "examples" / "caption.v1.1.json").read_bytes())[0]
    changed = build.schema_documents()["caption.v1"] | {"required": ["text", "language"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example, changed)
