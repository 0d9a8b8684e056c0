"""Helpers that the tests of the API share: a brute-force index, a node in memory, a socket.

`BruteIndex` is the reference: a dictionary, searched by sorting everything. It remembers the state
at every offset, so that a test can ask what an exact search returned *then*.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.applications import Starlette

from api.app import create_app
from api.live.limits import LiveLimits
from api.node import Node
from api.queries.wait_for import StateWaiter
from contracts.errors import NotReady, RejectedRecord, TidelensError
from contracts.events.embedding_record import embedding_record, encode_embedding
from contracts.events.record import Fetched, Record, RecordPosition, Source, TopicPartition
from contracts.filters.nodes import Filter
from contracts.filters.warnings import FilterWarning, warnings_of
from contracts.metrics import Metrics
from contracts.partitioner import partitioner
from contracts.ports.encoder import RgbImage
from contracts.ports.hit import Hit, VectorQuery
from contracts.ports.lag import Lag
from contracts.ports.pictures import PictureConverter, ReferenceReader
from contracts.ports.search import Answer, AppliedBatch
from contracts.score import Vectors, exact_scores
from contracts.settings import Settings
from contracts.supervision.side_tasks import SideTasks
from contracts.testing.clock import ManualClock
from contracts.testing.encoder import HashEncoder
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names, Target
from contracts.wire.as_of import AsOf
from contracts.wire.cursor import Cursor
from contracts.wire.delta import WireHit, apply_changes
from contracts.wire.message_json import wire_hit
from index_store.index import Index
from index_store.search.matcher_numpy import NumpyMatcher
from index_store.search.searcher import LocalSearcher
from tests.kits.index_kit import types_by_field
from tests.oracles.rank_order import rank_order
from tidelens.server.server import listen, serve

PARTITIONS = 2
NAMES = Names("tidelens.", "hash-v1")
MURMUR2 = partitioner("murmur2")

Items = dict[tuple[Target, str], Hit]


class BruteIndex:
    """Searcher, Progress and AppliedBatches over a dictionary."""

    def __init__(self) -> None:
        self.epoch = "epoch-1"
        self.generation = 1
        self.ready = True
        self.items: Items = {}
        self.offsets: dict[Target, list[int]] = {t: [0] * PARTITIONS for t in TARGETS}
        self.sources: dict[tuple[Target, int], int] = {}
        self.reasons: dict[tuple[Target, int, int], str] = {}
        self.past: dict[bytes, Items] = {}
        self.listeners: list[Callable[[Sequence[AppliedBatch]], None]] = []
        self.searches = 0
        self.running = 0
        # Lets a test put something between a search's view and its answer.
        self.gate: Callable[[], Any] | None = None
        self._remember()

    # What the maintainer does

    def put(
        self, target: Target, item_id: str, vector: Vectors, *, at: int | None = None, **rest: Any
    ) -> None:
        self.batch([(target, item_id, vector, rest)], at=at)

    def remove(self, target: Target, item_id: str) -> None:
        self.batch([(target, item_id, None, {})])

    def batch(
        self,
        changes: Sequence[tuple[Target, str, Vectors | None, Mapping[str, Any]]],
        *,
        at: int | None = None,
    ) -> None:
        """Apply, then tell the listeners, as one step."""
        last: dict[tuple[Target, str], Vectors | None] = {}
        items = dict(self.items)
        for target, item_id, vector, rest in changes:
            partition = MURMUR2(item_id.encode(), PARTITIONS)
            offset = self.offsets[target][partition] if at is None else at
            self.offsets[target][partition] += 1
            self.sources[target, partition] = offset
            source = RecordPosition(NAMES.content(target), partition, offset)
            last[target, item_id] = vector
            if vector is None:
                items.pop((target, item_id), None)
            else:
                items[target, item_id] = Hit(target, item_id, 0, 0.0, source, vector=vector, **rest)
        self.items = items
        self._remember()
        self._tell(last)

    def move(self, target: Target, partition: int, steps: int = 1) -> None:
        """Advance the position past a transaction marker, without notifying anybody."""
        self.offsets[target][partition] += steps
        self._remember()

    def restart(self, epoch: str) -> None:
        """Start again with an empty index, on a log that was created again."""
        self.epoch, self.items = epoch, {}
        self.generation += 1
        self.offsets = {t: [0] * PARTITIONS for t in TARGETS}
        self._remember()

    def _tell(self, last: Mapping[tuple[Target, str], Vectors | None]) -> None:
        applied = []
        for target in TARGETS:
            put = {i: v for (t, i), v in last.items() if t == target and v is not None}
            gone = [i for (t, i), v in last.items() if t == target and v is None]
            if put or gone:
                rows = np.stack(list(put.values())) if put else np.empty((0, 64), np.float16)
                hits = [self.items[target, item_id] for item_id in put]
                applied.append(AppliedBatch(target, list(put), rows, gone, hits.__getitem__, 1))
        for listener in self.listeners:
            listener(applied)

    def _remember(self) -> None:
        self.past[self._key(self.as_of_now())] = self.items

    @staticmethod
    def _key(as_of: AsOf) -> bytes:
        offsets = {target: list(numbers) for target, numbers in as_of.offsets.items()}
        return orjson.dumps([as_of.epoch, offsets], option=orjson.OPT_SORT_KEYS)

    def as_of_now(self) -> AsOf:
        return AsOf("hash-v1", self.epoch, {t: list(o) for t, o in self.offsets.items()})

    # Ports

    async def search(self, queries: Sequence[VectorQuery]) -> list[Answer]:
        self._require_ready()
        self.searches += 1
        items, as_of = self.items, self.as_of_now()
        if self.gate is not None:
            await self.gate()
        return [
            Answer(brute(items, query), as_of, brute_warnings(items, query.target, query.filter))
            for query in queries
        ]

    async def warnings(self, target: Target, condition: Filter) -> Sequence[FilterWarning]:
        self._require_ready()
        return brute_warnings(self.items, target, condition)

    async def item(self, target: Target, item_id: str) -> Hit | None:
        self._require_ready()
        return self.items.get((target, item_id))

    def as_of(self) -> AsOf:
        self._require_ready()
        return self.as_of_now()

    def highest_source(self, target: Target, partition: int) -> int:
        return self.sources.get((target, partition), -1)

    def rejection_reason(self, target: Target, partition: int, offset: int) -> str | None:
        return self.reasons.get((target, partition, offset))

    def count(self, target: Target) -> int:
        return sum(t == target for t, _ in self.items)

    def listen(self, listener: Callable[[Sequence[AppliedBatch]], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def _require_ready(self) -> None:
        if not self.ready:
            raise NotReady("this node cannot answer yet: replaying")

    def wire_list_at(self, as_of: AsOf, query: VectorQuery) -> list[WireHit]:
        """Return what an exact search at an earlier state returned, in the form that is sent."""
        return [wire_hit(hit) for hit in brute(self.past[self._key(as_of)], query)]


class RealIndex(BruteIndex):
    """The index that is served, beside the dictionary that says what it must answer."""

    def __init__(self, dim: int = 64) -> None:
        self._dim = dim
        self.served = LocalSearcher()
        self._make()
        super().__init__()
        self.epoch = self.real.epoch
        self._remember()

    def batch(
        self,
        changes: Sequence[tuple[Target, str, Vectors | None, Mapping[str, Any]]],
        *,
        at: int | None = None,
    ) -> None:
        records: dict[TopicPartition, list[Record]] = {}
        offsets = {target: list(numbers) for target, numbers in self.offsets.items()}
        for target, item_id, vector, rest in changes:
            number = MURMUR2(item_id.encode(), PARTITIONS)
            partition = TopicPartition(NAMES.embeddings(target), number)
            offset = offsets[target][number]
            offsets[target][number] += 1
            value = None if vector is None else encode_embedding(self.real.space, vector, **rest)
            content = Record(NAMES.content(target), number, offset, 1, item_id.encode(), None)
            written = embedding_record(
                partition.topic, content, Source("topic", number, offset), value
            )
            records.setdefault(partition, []).append(
                Record(*partition, offset, 1, written.key, written.value, tuple(written.headers))
            )
        ends = {partition: found[-1].offset + 1 for partition, found in records.items()}
        self._changed = self.real.apply(Fetched(records, ends))
        super().batch(changes, at=at)

    def _tell(self, last: Mapping[tuple[Target, str], Vectors | None]) -> None:
        for listener in self.listeners:
            listener(self._changed)

    def move(self, target: Target, partition: int, steps: int = 1) -> None:
        super().move(target, partition, steps)
        place = TopicPartition(NAMES.embeddings(target), partition)
        self.real.apply(Fetched({}, {place: self.offsets[target][partition]}))

    def restart(self, epoch: str) -> None:
        self._make()
        super().restart(self.real.epoch)

    def _make(self) -> None:
        counts: dict[Target, int] = dict.fromkeys(TARGETS, PARTITIONS)
        ids = {NAMES.embeddings(target): uuid.uuid4().hex for target in TARGETS}
        self.real = Index(HashEncoder(self._dim).space, NAMES, counts, ids)
        self.served.serve(self.real)
        self.served.set_ready()

    async def search(self, queries: Sequence[VectorQuery]) -> list[Answer]:
        self.searches += 1
        self.running += 1
        try:
            return await self.served.search(queries)
        finally:
            self.running -= 1

    async def warnings(self, target: Target, condition: Filter) -> Sequence[FilterWarning]:
        return await self.served.warnings(target, condition)

    async def item(self, target: Target, item_id: str) -> Hit | None:
        return await self.served.item(target, item_id)

    def as_of(self) -> AsOf:
        return self.served.as_of()


def brute(items: Items, query: VectorQuery) -> list[Hit]:
    """Search by the definition: score every item, sort, and keep the best `k`."""
    found = [hit for (target, _), hit in items.items() if target == query.target]
    if query.filter is not None:
        found = [hit for hit in found if query.filter.matches(hit.metadata or {})]
    if not found:
        return []
    scores = exact_scores(np.stack([hit.vector for hit in found]), query.vector)  # type: ignore[misc]
    ranked = [(found[i], float(scores[i])) for i in rank_order(scores, [hit.id for hit in found])]
    if query.min_score is not None:
        ranked = [(hit, score) for hit, score in ranked if score >= query.min_score]
    if query.collapse:
        seen: set[str] = set()
        kept = []
        for hit, score in ranked:
            group = hit.item if hit.item is not None else f"\0{hit.id}"
            if group not in seen:
                seen.add(group)
                kept.append((hit, score))
        ranked = kept
    return [
        Hit(
            hit.target,
            hit.id,
            rank,
            score,
            hit.source,
            hit.item,
            hit.text,
            hit.metadata,
            hit.vector if query.with_vector else None,
        )
        for rank, (hit, score) in enumerate(
            ranked[query.offset : query.offset + query.k], start=query.offset + 1
        )
    ]


def brute_warnings(
    items: Items, target: Target, condition: Filter | None
) -> Sequence[FilterWarning]:
    """Find what a filter asks for that no item has, by a look at every value of every live item."""
    if condition is None:
        return ()
    live = [hit.metadata or {} for (of, _), hit in items.items() if of == target]
    return warnings_of(condition, types_by_field(live))


class SlackMatcher:
    """A Matcher that computes in float64 and nominates exactly."""

    def nominate(
        self, queries: NDArray[np.float32], floors: NDArray[np.float64], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
        found, rows = np.nonzero(scores >= floors[:, None])
        return found, rows


class FixedLag:
    """A LagSource that says what a test put into it."""

    def __init__(self) -> None:
        self.lags: list[Lag] = []
        self.error: Exception | None = None

    async def lag(self) -> list[Lag]:
        if self.error is not None:
            raise self.error
        return self.lags

    def behind_s(self, lags: Sequence[Lag]) -> float:
        ages = [
            max(lag.seconds if lag.records else 0, lag.unstable_seconds if lag.unstable else 0)
            for lag in lags
            if not lag.gone
        ]
        return max(ages, default=0.0)


class DirectQueries:
    """A QueryEncoder without a process; pictures are their first byte's shade of grey."""

    def __init__(self, dim: int = 64) -> None:
        self.encoder = HashEncoder(dim)
        self.texts: list[str] = []

    async def query(self, text: str) -> Vectors:
        return await self.text(text)

    async def text(self, text: str) -> Vectors:
        self.texts.append(text)
        return self.encoder.encode_texts([text])[0]

    async def image(self, data: bytes) -> Vectors:
        picture: RgbImage = np.full((4, 4, 3), data[0], np.uint8)
        return self.encoder.encode_images([picture])[0]

    async def logit_scale(self) -> float:
        return self.encoder.logit_scale


class NoReferences:
    """A ReferenceReader whose settings turn every scheme off."""

    @asynccontextmanager
    async def read(self, ref: str, sha256: str | None) -> AsyncIterator[bytes]:
        raise RejectedRecord("not_enabled", "image.ref: no scheme is enabled", field="image.ref")
        yield b""


class NoConverter:
    """A PictureConverter whose process cannot be started."""

    async def to_jpeg(self, data: bytes) -> bytes:
        raise NotReady("a decoder cannot be started")


class FixedAdmin:
    """An IndexAdmin that remembers what was asked; `error` is raised instead of an answer."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: TidelensError | None = None

    async def snapshot(self) -> dict[str, Any]:
        return self._answer("snapshot", {"name": "1"})

    async def restore(self, name: str) -> dict[str, Any]:
        return self._answer("restore", {"name": name})

    async def rebuild(self, targets: Sequence[Target]) -> list[dict[str, Any]]:
        self._answer("rebuild", {})
        return [{"target": target} for target in targets]

    async def verify(self) -> dict[str, Any]:
        return self._answer("verify", {"verified": True, "digests": []})

    def segments(self) -> list[dict[str, Any]]:
        return [self._answer("segments", {"kind": "Flat"})]

    def _answer(self, asked: str, answer: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return answer


def _settings(given: Mapping[str, Any]) -> Settings:
    """Read settings, or return equal ones read before: reading takes most of the time of a kit."""
    variables = [item for item in os.environ.items() if item[0].upper().startswith("TIDELENS_")]
    if any(isinstance(value, list) for value in given.values()):
        return Settings(**given)
    return _settings_read(frozenset(given.items()), frozenset(variables))


@lru_cache(maxsize=64)
def _settings_read(
    given: frozenset[tuple[str, Any]], variables: frozenset[tuple[str, str]]
) -> Settings:
    """Read settings, which cannot change, while the environment has these variables."""
    return Settings(**dict(given))


class Kit:
    """A node on the ports in memory, its app, and clients of it."""

    def __init__(
        self,
        *,
        index: BruteIndex | None = None,
        references: ReferenceReader | None = None,
        picture_references: ReferenceReader | None = None,
        converter: PictureConverter | None = None,
        dim: int = 64,
        live_limits: LiveLimits | None = None,
        waiter: Callable[[Node], StateWaiter] = StateWaiter,
        side: SideTasks | None = None,
        **settings: Any,
    ) -> None:
        self.index = index or BruteIndex()
        self.clock = ManualClock()
        topics = {f(t): PARTITIONS for t in TARGETS for f in (NAMES.content, NAMES.embeddings)}
        self.log = MemoryEventLog(topics, clock=self.clock)
        self.lag = FixedLag()
        self.admin = FixedAdmin()
        self.queries = DirectQueries(dim)
        self.references = references or NoReferences()
        self.metrics = Metrics()
        self.recent: list[str] = []
        self.status: dict[str, Any] = {"dead_letters_last_hour": {}}
        self.settings = _settings({"wait_s_max": 2.0, "k_max": 100, **settings})
        self.node = Node(
            space=self.queries.encoder.space,
            names=NAMES,
            settings=self.settings,
            searcher=self.index,
            progress=self.index,
            feed=self.index,
            log=self.log,
            queries=self.queries,
            references=self.references,
            picture_references=picture_references or self.references,
            converter=converter or NoConverter(),
            lag=self.lag,
            admin=self.admin,
            matcher=SlackMatcher() if index is None else NumpyMatcher(),
            metrics=self.metrics,
            exposed=self.metrics.registry,
            clock=self.clock,
            status=lambda: self.status,
            recent_queries=lambda: self.recent,
            side=side or SideTasks(),
        )
        self.app: Starlette = create_app(self.node, live_limits, waiter=waiter(self.node))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")

    def text(self, text: str) -> Vectors:
        return self.queries.encoder.encode_texts([text])[0]

    def caption(self, item_id: str, text: str, **rest: Any) -> None:
        """Index a caption directly, without the log."""
        self.index.put("captions", item_id, self.text(text), text=text, **rest)

    def sample(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels or {})

    async def until(self, name: str, value: float) -> None:
        """Wait for what follows by itself, as when a client has gone."""
        async with asyncio.timeout(60):
            while self.sample(name) != value:
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def live(self, headers: Mapping[str, str] | None = None) -> AsyncIterator["Socket"]:
        socket = Socket(self.app, headers or {})
        socket.start()
        try:
            yield socket
        finally:
            await socket.stop()


@asynccontextmanager
async def serving(
    app: Starlette, settings: Settings, port: int = 0, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """Serve the app as `up` does, and yield the loopback port; port 0 chooses a free one."""
    listener = listen(host, port)
    task = asyncio.create_task(serve(app, listener, frame_bytes_max=settings.frame_bytes_max))
    try:
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()


class Closed(Exception):
    """The server closed the socket, with this code."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Socket:
    """A WebSocket client inside the process: speaks ASGI to the app, no network between.

    `holding` stops taking what the server sends, as a client that does not read.
    """

    def __init__(self, app: Starlette, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = {"host": "127.0.0.1:8080", **headers}
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.reading = asyncio.Event()
        self.reading.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        raw = [(k.encode(), v.encode()) for k, v in self._headers.items()]
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/v1/live",
            "raw_path": b"/v1/live",
            "query_string": b"",
            "root_path": "",
            "headers": raw,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
            "subprotocols": [],
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        self._in.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._run(scope))

    async def _run(self, scope: dict[str, Any]) -> None:
        await self._app(scope, self._in.get, self._take)

    async def _take(self, message: Any) -> None:
        await self.reading.wait()
        self._out.put_nowait(message)

    async def stop(self) -> None:
        """Disconnect, and require that the server's side ends by itself."""
        assert self._task is not None
        self.reading.set()
        if self._task.done():
            return
        self._in.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(30):
            await self._task

    async def accepted(self) -> None:
        message = await self._next()
        if message["type"] == "websocket.close":
            raise Closed(message["code"])
        assert message["type"] == "websocket.accept", message

    async def refused(self) -> tuple[int, Any]:
        """Return the status and the body of the HTTP answer that came instead of an accept."""
        start, body = await self._next(), await self._next()
        return start["status"], orjson.loads(body["body"])

    def send(self, **message: Any) -> None:
        self.send_text(orjson.dumps(message).decode())

    def send_text(self, text: str) -> None:
        self._in.put_nowait({"type": "websocket.receive", "text": text})

    def send_bytes(self, data: bytes) -> None:
        self._in.put_nowait({"type": "websocket.receive", "bytes": data})

    def subscribe(self, sub: str, cursor: str | None = None, **query: Any) -> None:
        self.send(op="subscribe", sub=sub, query=query, cursor=cursor)

    async def receive(self) -> Any:
        message = await self._next()
        if message["type"] == "websocket.close":
            raise Closed(message["code"], message.get("reason", ""))
        return orjson.loads(message["text"])

    def waiting(self) -> list[Any]:
        """Return the messages that have arrived, without waiting for more."""
        found = []
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                found.append(orjson.loads(self._out.get_nowait()["text"]))
        return found

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            return await self._out.get()


class Follower:
    """A client's list, kept by the rules of the wire; `check` holds it against the brute force."""

    def __init__(self, index: BruteIndex, query: Callable[[AsOf], VectorQuery]) -> None:
        self._index = index
        self._query = query
        self.hits: list[WireHit] = []
        self.cursor: str | None = None
        self.cursors = 0

    def take(self, message: Mapping[str, Any]) -> None:
        match message["type"]:
            case "snapshot":
                self.hits = message["hits"]
            case "delta":
                assert message["changes"], "an empty delta says nothing"
                self.hits = apply_changes(self.hits, message["changes"])
            case "resumed":
                pass
            case "reset":
                self.hits, self.cursor = [], None
                return
            case other:
                raise AssertionError(f"want a list message, got {other}: {message}")
        self.cursor = message["cursor"]
        self.check()

    def check(self) -> None:
        assert self.cursor is not None
        as_of = Cursor.decode(self.cursor).as_of
        assert self.hits == self._index.wire_list_at(as_of, self._query(as_of))
        self.cursors += 1
