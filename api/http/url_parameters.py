"""The parameters in the query of a URL, decoded strictly.

Starlette decodes them leniently, so that bytes which are not UTF-8 would become `\\ufffd`, which
may be the id of an item.
"""

from urllib.parse import parse_qsl

from starlette.requests import Request

from contracts.errors import RejectedRequest

PARAMETERS_MAX = 64


def query_parameters(request: Request) -> list[tuple[str, str]]:
    """Return the names and values in their order.

    Raises RejectedRequest for more than PARAMETERS_MAX parameters, or for text that is not UTF-8.
    """
    query = request.scope["query_string"]
    # Counted here, since the error of `parse_qsl` does not say what was wrong.
    count = query.count(b"&") + 1
    if count > PARAMETERS_MAX:
        raise RejectedRequest.over(
            "too_many", PARAMETERS_MAX, count, field="query", unit="parameters"
        )
    try:
        return parse_qsl(query.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        message = "query: want UTF-8, percent-encoded"
        raise RejectedRequest("query_not_utf8", message, field="query") from None
