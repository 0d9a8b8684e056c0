"""The id of an item in the path or query of a request, complete and unchanged.

Starlette's `path` parameters stop at a line break, and its routes end in `$`, which also matches
before a final line break: `DELETE /v1/items/captions/note%0A` would delete `note`. Servers decode
paths leniently, so that bytes which are not UTF-8 would become the id `\\ufffd`.
"""

import re
from urllib.parse import unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.routing import BaseRoute, Route, WebSocketRoute

from api.http.url_parameters import query_parameters
from contracts.errors import RejectedRequest

_REPLACEMENT = "\ufffd"


class _RestOfPathConvertor(Convertor[str]):
    """The convertor of `{id:rest}`: the rest of a path, including line breaks."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", _RestOfPathConvertor())


def match_whole_path(route: Route | WebSocketRoute) -> BaseRoute:
    """Make a route match whole paths only, since `$` also matches before a final line break."""
    route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
    return route


def item_id_of(request: Request) -> str:
    """Return the id from the path or from the query. Raises RejectedRequest without an id."""
    found = request.path_params.get("id")
    if found is None:
        return _in_query(request)
    if _REPLACEMENT in found:
        try:
            unquote_to_bytes(request.scope.get("raw_path") or found).decode()
        except UnicodeDecodeError:
            message = "id: want UTF-8, percent-encoded"
            raise RejectedRequest("id_not_utf8", message, field="id") from None
    return str(found)


def _in_query(request: Request) -> str:
    ids = [value for name, value in query_parameters(request) if name == "id"]
    if len(ids) != 1:
        message = f"id: want one, as the rest of the path or as ?id=, got {len(ids)}"
        raise RejectedRequest("invalid_request", message, field="id", value=len(ids))
    return ids[0]
