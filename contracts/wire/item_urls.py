"""The URL paths of items and pictures, by which clients reach every id that can be published.

An id is the whole rest of the path, percent-encoded; its slashes stay. Clients resolve segments of
`.` and `..` before they ask (RFC 3986, section 5.2.4; the WHATWG URL standard), so that
`/v1/pictures/d/../cat.png` asks for another picture. An id with such a segment stands in the query
instead, `/v1/pictures?id=d%2F..%2Fcat.png`, where any id may stand.
"""

import re
from urllib.parse import quote

from contracts.errors import RejectedRequest
from contracts.topics import Target

PICTURES = "/v1/pictures"
ITEMS = "/v1/items"
_RESOLVED = re.compile(r"(?:\A|/)\.\.?(?:/|\Z)")


def picture_path(item_id: str) -> str:
    """Return the path that shows the picture with that id. Raises as `item_path` does."""
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
