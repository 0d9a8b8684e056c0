"""One live subscription of the client: its query, and the list that updates keep current."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson
from websockets.asyncio.client import ClientConnection

from contracts.errors import NotReady, RejectedRequest
from contracts.wire.cursor import Cursor, wire_list_digest
from contracts.wire.delta import WireChange, WireHit, apply_changes, wire_list_changes
from contracts.wire.exact_json import find_inexact

Mode = Literal["top", "matches"]
Event = Literal["snapshot", "delta", "resumed", "reset", "match", "progress"]


@dataclass(frozen=True, slots=True)
class Update:
    """One step of a live subscription: what happened, and the state after it.

    - `event` is the type of the message that was received: `snapshot` (a whole list), `delta`
      (changes of a list), `match` (items that match), `resumed` (nothing was missed since the
      cursor), `progress` (a newer cursor) or `reset` (the cursor is void).
    - `hits` is the whole list in mode `top`, in its order, and in mode `matches` the items that
      match now.
    - `changes` lead from the list before to `hits` in mode `top`; a snapshot after a reconnect has
      the difference from the list before it. In mode `matches` there are none.
    - `cursor` is an opaque text to resume from. It is None after a reset.
    - `reason` says why there was a reset, and is None otherwise.
    - `warnings` name fields of the filter that no item has, or has with another type
      (contracts.wire.server_messages.WarningMessage).
    """

    event: Event
    changes: Sequence[WireChange]
    hits: Sequence[WireHit]
    cursor: str | None
    reason: str | None = None
    warnings: Sequence[Mapping[str, str]] = ()


class Subscription:
    """The state of one subscription across connections: its query, cursor and hits."""

    def __init__(
        self,
        asked: Mapping[str, Any],
        cursor: str | None,
        hits: Sequence[WireHit],
    ) -> None:
        self._asked = asked
        # Mode matches has no list: hits of an earlier update must not look like new ones.
        self._hits = list(hits) if asked["mode"] == "top" else []
        self._cursor = cursor
        if cursor is not None and asked["mode"] == "top":
            # The digest is that of `hits`. Deltas cannot be applied to another list, so the server
            # may answer `resumed` only if its own list is this one.
            own = replace(Cursor.decode(cursor), list_digest=wire_list_digest(hits))
            self._cursor = own.encode()
        self.opened = False

    def opening(self) -> str:
        message = {"op": "subscribe", "sub": "watch", **self._asked, "cursor": self._cursor}
        return dumped(message).decode()

    async def updates(self, socket: ClientConnection) -> AsyncIterator[Update]:
        async for raw in socket:
            update = self._take(orjson.loads(raw))
            if update is not None:
                self.opened = True
                yield update

    def _take(self, message: Mapping[str, Any]) -> Update | None:
        """Apply a message to the list and the cursor; return None if it changes neither.

        Raises NotReady or RejectedRequest for an error message.
        """
        event = message["type"]
        if event == "error":
            raise _error_of(message)
        if event == "reset":
            self._cursor = None
            return Update("reset", [], self._hits, None, message["reason"])
        if event == "match":
            self._cursor = message["cursor"]
            return Update("match", [], message["hits"], self._cursor)
        changes: Sequence[WireChange]
        if event == "snapshot":
            changes = wire_list_changes(self._hits, message["hits"])
            self._hits = message["hits"]
        elif event == "delta":
            changes = message["changes"]
            self._hits = apply_changes(self._hits, changes)
        elif event in ("resumed", "progress"):
            changes = []
        else:
            return None
        self._cursor = message["cursor"]
        warnings = message.get("warnings", ())
        return Update(event, changes, self._hits, self._cursor, warnings=warnings)


def _error_of(message: Mapping[str, Any]) -> NotReady | RejectedRequest:
    """Return the error of a message; with `retry_after` it is temporary, and the cursor valid."""
    if message.get("retry_after") is not None:
        return NotReady(message["message"])
    return RejectedRequest(message["code"], message["message"], field=message.get("field"))


def dumped(body: Any) -> bytes:
    """Write JSON. Raises RejectedRequest for an integer beyond 64 bits, as the server does."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        found = find_inexact(body)
        if found is None:
            raise
        raise RejectedRequest.at("invalid_request", found.field, found) from None
