"""The public async client: search, publish, and live lists that keep themselves current.

    async with tidelens.Client("http://127.0.0.1:8080") as client:
        answer = await client.search({"text": "a red bicycle"})
        async for update in client.watch({"text": "a red bicycle", "k": 5}):
            print(update.hits)

`watch` reconnects by itself and resumes with its cursor: nothing is lost, and a list changes only
where it differs. In mode matches, what was told since the last cursor may come again after that.
Whoever keeps `update.cursor`, and of a list `update.hits`, goes on from there another day:

        async for update in client.watch(
            {"text": "smoke", "min_score": 0.3}, mode="matches", cursor=kept
        ):
            for hit in update.hits:
                alarm(hit)
            keep(update.cursor)
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from contracts.errors import (
    BrokerUnavailable,
    ConfigurationError,
    NotReady,
    RejectedRequest,
    TidelensError,
)
from contracts.wire.cursor import Cursor, wire_list_digest
from contracts.wire.delta import WireChange, WireHit, apply_changes, wire_list_changes
from contracts.wire.exact_json import find_inexact
from contracts.wire.item_urls import item_path

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)

Mode = Literal["top", "matches"]
Event = Literal["snapshot", "delta", "resumed", "reset", "match", "progress"]


class ServerUnavailable(BrokerUnavailable):
    """No Tidelens server answers at the given URL."""


@dataclass(frozen=True, slots=True)
class Update:
    """One step of a live subscription, whole: what happened, and what stands after it.

    Mode top: `hits` is the list now and `changes` what led to it; after a snapshot that follows a
    reconnect, the difference to what was held before. Mode matches: `hits` are those told now, and
    there are no changes. `cursor` is where to go on from (None after a reset, which says why).
    `warnings` name what the filter asks for that no item has (WarningMessage).
    """

    event: Event
    changes: Sequence[WireChange]
    hits: Sequence[WireHit]
    cursor: str | None
    reason: str | None = None
    warnings: Sequence[Mapping[str, str]] = ()


class Client:
    """Speaks the public HTTP and WebSocket contract, version 1. Use as `async with`.

    Raises ConfigurationError for a URL that cannot be one of a server.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8080", *, timeout_s: float | None = 60.0
    ) -> None:
        self._url = _checked(url).rstrip("/")
        self._http = httpx.AsyncClient(base_url=self._url, timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def search(self, query: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
        """Answer(s) as contracts.wire.server_messages.AnswerMessage; a list for several."""
        return await self._request("POST", "/v1/search", query)

    async def classify(self, asked: Mapping[str, Any]) -> Any:
        """The labels that fit best, likeliest first: ClassifyAnswer of a Classify."""
        return await self._request("POST", "/v1/classify", asked)

    async def publish(self, items: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Any]:
        """Tokens, in order; each can be given to `wait_for`."""
        answer = await self._request("POST", "/v1/items", items)
        tokens: list[Any] = answer["tokens"]
        return tokens

    async def item(self, target: str, item_id: str) -> Any:
        return await self._request("GET", item_path(target, item_id))

    async def delete(self, target: str, item_id: str) -> Any:
        return await self._request("DELETE", item_path(target, item_id))

    async def get(self, path: str) -> Any:
        """Any other GET of the API: /v1/lag, /v1/status."""
        return await self._request("GET", path)

    async def post(self, path: str, body: Any = None) -> Any:
        """Any other POST of the API: /v1/admin/snapshot."""
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: Any = None) -> Any:
        content = _dumped(body) if body is not None else None
        headers = {"content-type": "application/json"} if content is not None else {}
        try:
            response = await self._http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise ServerUnavailable(
                f"no Tidelens server answers at {self._url} ({error or type(error).__name__}); "
                "start one with `tidelens up`, or give --url"
            ) from None
        if not response.is_success:
            raise _refused(response)
        try:
            return response.json()
        except ValueError:
            raise ServerUnavailable(
                f"what answers at {self._url} is no Tidelens server; give another --url"
            ) from None

    async def watch(
        self,
        query: Mapping[str, Any],
        *,
        cursor: str | None = None,
        hits: Sequence[WireHit] = (),
        mode: Mode = "top",
        throttle_ms: int = 0,
        min_change: float = 0.0,
    ) -> AsyncIterator[Update]:
        """Updates of one live subscription, for ever; the list is kept across reconnects.

        `cursor` and `hits` are those of an earlier update: it goes on from there. Without that
        list it begins with a snapshot, of no earlier state than the cursor's. Mode matches tells
        of every item applied from now, or from the cursor, on that matches. `throttle_ms` and
        `min_change` (mode top): at most one update in so many milliseconds, and none until an item
        enters or leaves or a score changes by that much.
        Raises RejectedRequest when the server refuses the query or ends the subscription.
        """
        spared = {"throttle_ms": throttle_ms, "min_change": min_change}
        asked = {"query": query, "mode": mode, **{k: v for k, v in spared.items() if v}}
        subscription = _Subscription(asked, cursor, hits)
        failures = 0
        while True:
            try:
                async with connect(
                    self._live_url(), max_size=None, compression=None, proxy=None
                ) as socket:
                    await socket.send(subscription.opening())
                    async for update in subscription.updates(socket):
                        failures = 0
                        yield update
            except NotReady:
                pass
            except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
                if failures == 0 and not subscription.opened:
                    raise ServerUnavailable(f"no live socket at {self._url}: {error}") from None
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1

    def _live_url(self) -> str:
        scheme, host, path, _, _ = urlsplit(self._url)
        live = "wss" if scheme == "https" else "ws"
        return urlunsplit((live, host, f"{path.rstrip('/')}/v1/live", "", ""))


class _Subscription:
    """What a live list is: query, cursor, hits. Survives the sockets it is carried on."""

    def __init__(
        self,
        asked: Mapping[str, Any],
        cursor: str | None,
        hits: Sequence[WireHit],
    ) -> None:
        self._asked = asked
        # Mode matches holds no list: what was told before must not look as if told again.
        self._hits = list(hits) if asked["mode"] == "top" else []
        self._cursor = cursor
        if cursor is not None and asked["mode"] == "top":
            # The digest is of the list that is held here: deltas cannot be applied to another one,
            # so the server has to say `resumed` for this one only.
            self._cursor = replace(Cursor.decode(cursor), hits=wire_list_digest(hits)).encode()
        self.opened = False

    def opening(self) -> str:
        message = {"op": "subscribe", "sub": "watch", **self._asked, "cursor": self._cursor}
        return _dumped(message).decode()

    async def updates(self, socket: ClientConnection) -> AsyncIterator[Update]:
        async for raw in socket:
            update = self._take(orjson.loads(raw))
            if update is not None:
                self.opened = True
                yield update

    def _take(self, message: Mapping[str, Any]) -> Update | None:
        kind = message["type"]
        if kind == "error":
            # Said where the same may be accepted a moment later: the cursor stays good.
            if message.get("retry_after") is not None:
                raise NotReady(message["message"])
            raise RejectedRequest(message["code"], message["message"], field=message.get("field"))
        if kind == "reset":
            self._cursor = None
            return Update("reset", [], self._hits, None, message["reason"])
        if kind == "match":
            self._cursor = message["cursor"]
            return Update("match", [], message["hits"], self._cursor)
        changes: Sequence[WireChange]
        if kind == "snapshot":
            changes = wire_list_changes(self._hits, message["hits"])
            self._hits = message["hits"]
        elif kind == "delta":
            changes = message["changes"]
            self._hits = apply_changes(self._hits, changes)
        elif kind in ("resumed", "progress"):
            changes = []
        else:
            return None
        self._cursor = message["cursor"]
        warnings = message.get("warnings", ())
        return Update(kind, changes, self._hits, self._cursor, warnings=warnings)


def _checked(url: str) -> str:
    """The same. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        # Each of these is parsed only when it is asked for, and raises ValueError then.
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        known = False
    if not known:
        raise ConfigurationError(f"url: want http://HOST:PORT, got {url!r}")
    return url


def _dumped(body: Any) -> bytes:
    """Write JSON. Raises RejectedRequest for an integer beyond 64 bits, as the server does."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        found = find_inexact(body)
        if found is None:
            raise
        raise RejectedRequest.at("invalid_request", found.field, found) from None


def _refused(response: httpx.Response) -> TidelensError:
    try:
        problem = response.json()
        return RejectedRequest(
            problem.get("code", "error"),
            problem.get("detail") or problem.get("title") or response.reason_phrase,
            status=response.status_code,
            field=problem.get("field"),
            limit=problem.get("limit"),
            value=problem.get("value"),
        )
    except (json.JSONDecodeError, AttributeError):
        return RejectedRequest(
            "error", f"HTTP {response.status_code} from the server", status=response.status_code
        )
