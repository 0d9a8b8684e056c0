"""The URL paths of items and pictures, for every id that can be published.

An id is the whole rest of the path, percent-encoded except for its slashes. Clients resolve
segments of `.` and `..` before they send a request (RFC 3986, section 5.2.4; the WHATWG URL
standard), so `/v1/pictures/d/../cat.png` would ask for another picture. An id with such a segment
is therefore put into the query, `/v1/pictures?id=d%2F..%2Fcat.png`, which accepts any id.
"""

import re
from urllib.parse import quote

from contracts.errors import RejectedRequest
from contracts.topics import Target

PICTURES = "/v1/pictures"
ITEMS = "/v1/items"
_RESOLVED = re.compile(r"(?:\A|/)\.\.?(?:/|\Z)")


def picture_path(item_id: str) -> str:
    """Return the path of the picture with this id. Raises RejectedRequest as `item_path` does."""
    return _below(PICTURES, item_id)


def item_path(target: Target | str, item_id: str) -> str:
    """Return the path of an item. Raises RejectedRequest for an id that no item can have."""
    return _below(f"{ITEMS}/{quote(target, safe='')}", item_id)


def _below(path: str, item_id: str) -> str:
    try:
        if _RESOLVED.search(item_id):
            return f"{path}?id={quote(item_id, safe='')}"
        return f"{path}/{quote(item_id)}"
    except UnicodeEncodeError:
        message = "id: not encodable as UTF-8"
        raise RejectedRequest("id_not_utf8", message, field="id") from None
