"""The public async client: search, publish, and live lists that keep themselves current.

    async with tidelens.Client("http://127.0.0.1:8080") as client:
        answer = await client.search({"text": "a red bicycle"})
        async for update in client.watch({"text": "a red bicycle", "k": 5}):
            print(update.hits)

`watch` reconnects by itself and resumes from its cursor, so that no change is lost and a list
changes only where it differs. In mode `matches`, hits that were sent after the last cursor may be
sent again after a reconnect. A program that stores `update.cursor`, and for a list `update.hits`,
can go on from there after a restart:

        async for update in client.watch(
            {"text": "smoke", "min_score": 0.3}, mode="matches", cursor=stored
        ):
            for hit in update.hits:
                alarm(hit)
            store(update.cursor)

A hit is a dict as it is on the wire (contracts.wire.server_messages.HitMessage): `id`, `target`,
`rank` (from 1), `score` (the cosine of the angle between the vectors), `item`, `text`, `metadata`,
`source`, `picture` (a URL path), and the forms of its vector that the query's `include` names.
Queries, items and answers are JSON objects, too; docs/search.md and docs/live.md describe their
members.

Every method may raise `ServerUnavailable` if no Tidelens server answers, and `RejectedRequest` if
the server refuses the request. Its `code`, `status`, `field`, `limit` and `value` are those of the
server's problem document.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from contracts.errors import (
    BrokerUnavailable,
    ConfigurationError,
    NotReady,
    RejectedRequest,
    TidelensError,
)
from contracts.wire.delta import WireHit
from contracts.wire.item_urls import item_path
from tidelens.subscription import Mode, Subscription, Update, dumped

__all__ = ["Client", "Mode", "ServerUnavailable", "Update"]

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


class ServerUnavailable(BrokerUnavailable):
    """The error for a URL at which no Tidelens server answers."""


class Client:
    """An async client of the public HTTP and WebSocket API, version 1.

    Use it as `async with Client(url) as client`, or call `close` at the end. `url` is that of an
    index node or gateway, with the path prefix of a proxy if there is one. `timeout_s` bounds each
    phase of an HTTP request in seconds (connecting, sending, receiving); None waits without limit.
    Proxies and `.netrc` files of the environment are ignored.

    Raises ConfigurationError if `url` cannot be the URL of a server.
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
        """Close all HTTP connections; the client cannot be used afterwards."""
        await self._http.aclose()

    async def search(self, query: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
        """Search with one query or a list of them, and return the answer or a list of answers.

        A query is a JSON object with one of `text`, `image` (base64 or a reference), `vector`
        (`dim` numbers), `id` with `of`, or `fuse`, and with `target`, `k`, `filter` and the other
        members of contracts.wire.client_messages.Query. All queries of a list are answered from the
        same state of the index, in their order. An answer has `hits`, the best first, and `as_of`
        (contracts.wire.server_messages.AnswerMessage).

        Raises RejectedRequest and ServerUnavailable.
        """
        return await self._request("POST", "/v1/search", query)

    async def classify(self, asked: Mapping[str, Any]) -> Any:
        """Return how well each of the given labels fits a picture, a text, a vector or an item.

        `asked` has the members of contracts.wire.client_messages.Classify: `labels`, optionally
        `templates` with `{}` for the label, and one of `text`, `image`, `vector` or `id` with `of`.
        The answer's `labels` are ordered from the most to the least probable; each has `label`,
        `probability` and `score`, the cosine of the angle between the two vectors
        (contracts.wire.server_messages.ClassifyAnswer). The probabilities of all given labels add
        up to 1; `k` bounds how many are returned.

        Raises RejectedRequest and ServerUnavailable.
        """
        return await self._request("POST", "/v1/classify", asked)

    async def publish(self, items: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Any]:
        """Publish one item or a list of them, and return a token for each, in their order.

        An item has `target`, `id`, `text` or `image`, and optionally `metadata`
        (contracts.wire.client_messages.NewItem). The items are in the log when this returns, and a
        little later in the index: a query with a token as its `wait_for` waits until that record
        can be found. A token has `topic`, `partition` and `offset`.

        Raises RejectedRequest and ServerUnavailable. After an error, some items may have been
        published; publishing them again does no harm.
        """
        answer = await self._request("POST", "/v1/items", items)
        tokens: list[Any] = answer["tokens"]
        return tokens

    async def item(self, target: str, item_id: str) -> Any:
        """Return an indexed item: a hit without `rank` and `score`. `target` is images or captions.

        Raises RejectedRequest with the code `item_not_found` if the index does not have it, and
        ServerUnavailable.
        """
        return await self._request("GET", item_path(target, item_id))

    async def delete(self, target: str, item_id: str) -> Any:
        """Publish the deletion of an item, and return {"tokens": [token]}.

        The item leaves the index a little later; a query with the token as its `wait_for` waits for
        that. Raises RejectedRequest and ServerUnavailable. An unknown id is not an error.
        """
        return await self._request("DELETE", item_path(target, item_id))

    async def get(self, path: str) -> Any:
        """Send a GET to another path of the API, such as /v1/lag or /v1/status; return its JSON.

        Raises RejectedRequest and ServerUnavailable.
        """
        return await self._request("GET", path)

    async def post(self, path: str, body: Any = None) -> Any:
        """Send a POST to another path of the API, such as /v1/admin/snapshot; return its JSON.

        `body` is sent as JSON, and None sends no body. Raises RejectedRequest and
        ServerUnavailable.
        """
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: Any = None) -> Any:
        content = dumped(body) if body is not None else None
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
                f"the server at {self._url} is not a Tidelens server; give another --url"
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
        """Subscribe to a query, and yield its updates without end, across reconnects.

        In mode `top`, the updates keep the list of the best `k` items current. In mode `matches`,
        they report each item once that is indexed from now on and passes the query's filter and
        `min_score`.

        `cursor` and `hits` are those of an earlier update, to go on from there. With a cursor and
        without its list, mode `top` begins with a snapshot of the cursor's state or a later one;
        mode `matches` begins with the items that were indexed since.

        In mode `top`, `throttle_ms` is the least time between two updates in milliseconds, and
        `min_change` the least change of a score that causes an update while no item enters or
        leaves the list.

        Raises RejectedRequest when the server refuses the query or ends the subscription, and
        ServerUnavailable when the first connection fails. Later failures lead to a reconnect after
        0.2 to 5 seconds.
        """
        limits = {"throttle_ms": throttle_ms, "min_change": min_change}
        asked = {"query": query, "mode": mode, **{k: v for k, v in limits.items() if v}}
        subscription = Subscription(asked, cursor, hits)
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
                    raise ServerUnavailable(
                        f"cannot open a live connection to {self._url}: {error}"
                    ) from None
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1

    def _live_url(self) -> str:
        scheme, host, path, _, _ = urlsplit(self._url)
        live = "wss" if scheme == "https" else "ws"
        return urlunsplit((live, host, f"{path.rstrip('/')}/v1/live", "", ""))


def _checked(url: str) -> str:
    """Return `url`. Raises ConfigurationError if it cannot be the URL of a server."""
    try:
        parts = urlsplit(url)
        # Each of these is parsed only when it is read, and raises ValueError then.
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        known = False
    if not known:
        raise ConfigurationError(f"url: want http://HOST:PORT, got {url!r}")
    return url


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
