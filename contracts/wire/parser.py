"""Parse the messages of clients, from JSON to the types of contracts/wire/client_messages.py."""

from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from contracts.errors import RejectedRequest
from contracts.wire.client_messages import (
    Classify,
    ClientMessage,
    NewItem,
    Ping,
    Query,
    Subscribe,
    Unsubscribe,
)
from contracts.wire.exact_json import InexactNumberError, loads
from contracts.wire.validation import first_error

_CLIENT_MESSAGE: TypeAdapter[Subscribe | Unsubscribe | Ping] = TypeAdapter(ClientMessage)
_SUBSCRIBE: TypeAdapter[Subscribe] = TypeAdapter(Subscribe)
_CLASSIFY: TypeAdapter[Classify] = TypeAdapter(Classify)
_QUERIES: TypeAdapter[list[Query]] = TypeAdapter(Annotated[list[Query], Field(fail_fast=True)])
_NEW_ITEMS: TypeAdapter[list[NewItem]] = TypeAdapter(
    Annotated[list[NewItem], Field(fail_fast=True)]
)


def parse_json(raw: bytes | str, field: str = "body") -> Any:
    """Parse JSON with exact integers.

    Raises RejectedRequest: `invalid_json`, or `invalid_request` for a number beyond the limits.
    """
    try:
        return loads(raw)
    except InexactNumberError as error:
        found = error.number
        # The path of a member does not begin with the word "body".
        path = [part for part in (field, found.field) if part]
        at = ".".join(path[1:] if field == "body" and found.field else path)
        raise RejectedRequest.at("invalid_request", at, found) from None
    except ValueError as error:
        message = f"{field}: not JSON ({error})"
        raise RejectedRequest("invalid_json", message, field=field) from None


def parse_queries(body: Any, *, queries_max: int) -> list[Query]:
    """Parse a query or a list of queries. Raises RejectedRequest naming the field."""
    queries = body if isinstance(body, list) else [body]
    _bounded("queries", len(queries), queries_max)
    return _validated(_QUERIES, queries, unlisted=not isinstance(body, list))


def parse_classify(body: Any) -> Classify:
    """Parse the body of POST /v1/classify. Raises RejectedRequest naming the field."""
    return _validated(_CLASSIFY, body)


def parse_new_items(body: Any, *, items_max: int) -> list[NewItem]:
    """Parse an item or a list of items. Raises RejectedRequest naming the field."""
    items = body if isinstance(body, list) else [body]
    _bounded("items", len(items), items_max)
    return _validated(_NEW_ITEMS, items, unlisted=not isinstance(body, list))


def parse_client_message(raw: str) -> Subscribe | Unsubscribe | Ping:
    """Parse one WebSocket message of a client. Raises RejectedRequest naming the field."""
    return _validated(_CLIENT_MESSAGE, parse_json(raw))


def parse_subscribe(body: Any) -> Subscribe:
    """Parse a message that can only be `subscribe`. Raises RejectedRequest naming the field."""
    return _validated(_SUBSCRIBE, body)


_Parsed = TypeVar("_Parsed")


def _validated(adapter: TypeAdapter[_Parsed], body: Any, *, unlisted: bool = False) -> _Parsed:
    try:
        return adapter.validate_python(body)
    except ValidationError as error:
        fault = first_error(error, body)
        # A single query is checked as a list of one. Leave its index out of the path.
        field = fault.field.partition(".")[2] if unlisted else fault.field
        raise RejectedRequest.at("invalid_request", field or "body", fault) from None


def _bounded(field: str, value: int, limit: int) -> None:
    if value > limit:
        raise RejectedRequest.over("too_many", limit, value, field=field, status=413)
