"""The encoder worker on the in-memory log: a vector or a tombstone for each record."""

import asyncio
import hashlib
import io
import os
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from consumers.encode_job import EncodeJob, newest_of_each, output_records, parse_record
from consumers.labelling import Labeller
from consumers.picture_fetch import DecodePermit, PictureLoader
from consumers.references import ReferenceLimits, References, read_reference
from contracts.errors import NotReady, RejectedRecord
from contracts.events.content_event import EVENT_TYPES, Content, content_record, delete_record
from contracts.events.embedding_record import Embedding, read_embedding
from contracts.events.record import OutRecord, Record, TopicPartition
from contracts.metrics import Metrics
from contracts.ports.encoder import RgbImage
from contracts.supervision.processes import Part
from contracts.testing.encoder import HashEncoder
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names, Target
from tests.kits.api_kit import MURMUR2
from tests.kits.kafka import (
    LETTER_BYTES_MAX,
    caption,
    decoded,
    intake,
    no_reference,
    none_allowed,
    worker,
)

pytestmark = pytest.mark.anyio

ENCODER = HashEncoder()
NAMES = Names("t.", ENCODER.space.name)
PARTITIONS = 2
REFERENCE = b'{"image": {"ref": "%s", "sha256": "' + b"0" * 64 + b'"}}'
CONTENT = [NAMES.content(target) for target in TARGETS]


def memory_log() -> MemoryEventLog:
    topics = dict.fromkeys([*CONTENT, *(NAMES.embeddings(t) for t in TARGETS)], PARTITIONS)
    return MemoryEventLog({**topics, NAMES.dead_letters: 1}, content_topics=CONTENT)


def png(colour: tuple[int, int, int] = (200, 0, 0)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(buffer, "PNG")
    return buffer.getvalue()


@asynccontextmanager
async def running(log: MemoryEventLog, **options: object) -> AsyncIterator[None]:
    async with log.join(NAMES.encoder_group) as ownership:
        task = asyncio.create_task(worker(ownership, NAMES, PARTITIONS, **options).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def encoded(log: MemoryEventLog) -> list[Embedding]:
    """Return all embeddings, once the encoder's offsets have reached the end of the content."""
    async with asyncio.timeout(30):
        while any(
            log.offsets[NAMES.encoder_group].get(tp, 0) < len(log.records[tp])
            for tp in (TopicPartition(t, n) for t in CONTENT for n in range(PARTITIONS))
        ):
            await asyncio.sleep(0.01)
    return written(log)


def written(log: MemoryEventLog) -> list[Embedding]:
    return [
        read_embedding(ENCODER.space, record)
        for target in TARGETS
        for n in range(PARTITIONS)
        for record in log.records[TopicPartition(NAMES.embeddings(target), n)]
    ]


def letters(log: MemoryEventLog) -> list[str]:
    records = log.records[TopicPartition(NAMES.dead_letters, 0)]
    return [(record.header("dead_letter_reason") or b"").decode() for record in records]


async def test_captions_pictures_and_deletes() -> None:
    log = memory_log()
    captions, images = NAMES.content("captions"), NAMES.content("images")
    await log.publish(
        [
            content_record(captions, caption("c", "a cat", item="i", metadata={"n": 1})),
            content_record(images, Content(target="images", id="p", image=png())),
            delete_record(captions, "gone"),
        ]
    )
    async with running(log):
        found = {e.id: e for e in await encoded(log)}
    assert found["c"].vector is not None
    assert (found["c"].text, found["c"].item, found["c"].metadata) == ("a cat", "i", {"n": 1})
    assert found["c"].vector.tobytes() == ENCODER.encode_texts(["a cat"])[0].tobytes()
    assert found["p"].vector is not None
    assert found["gone"].vector is None
    assert letters(log) == []


async def test_a_bad_record_is_lettered_and_the_next_is_served() -> None:
    log = memory_log()
    captions = NAMES.content("captions")
    good = content_record(captions, caption("good", "fine"))
    bad = OutRecord(captions, b"bad", b"{", good.headers)
    await log.publish([bad, good])
    async with running(log):
        found = {e.id: e for e in await encoded(log)}
    assert found["good"].vector is not None
    assert found["bad"].vector is None
    assert (found["bad"].reason or "").startswith("invalid_json: ")
    assert letters(log) == ["invalid_json"]
    letter = log.records[TopicPartition(NAMES.dead_letters, 0)][0]
    assert (letter.key, letter.value) == (b"bad", b"{")


NULS = b"\0" * 1_200_000
DEEP = b'{"m": ' + b"[" * 252 + b"]" * 252 + b"}"


def bad(target: Target, value: bytes, kind: bytes | None = None) -> OutRecord:
    headers = [
        ("ce_type", EVENT_TYPES[target].encode() if kind is None else kind),
        ("content-type", b"application/json"),
    ]
    return OutRecord(NAMES.content(target), b"bad", value, headers)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (bad("images", b'{"image": {"data": ""}}'), "invalid_content"),
        (bad("images", REFERENCE % b"file://["), "reference_invalid"),
        (bad("captions", b'{"text": "x", "metadata": ' + DEEP + b"}"), "invalid_content"),
        (bad("captions", b'{"text": "x"}', NULS), "unknown_event_type"),
        (bad("captions", b"{" * LETTER_BYTES_MAX), "invalid_json"),
    ],
    ids=["empty data", "no URL", "deep", "long type", "large"],
)
async def test_whatever_is_in_a_record_the_next_is_served(record: OutRecord, code: str) -> None:
    log = memory_log()
    await log.publish([record, content_record(NAMES.content("captions"), caption("good", "fine"))])
    async with running(log):
        found = {e.id: e for e in await encoded(log)}
    assert found["good"].vector is not None
    assert found["bad"].vector is None
    reason = found["bad"].reason or ""
    assert reason.startswith(f"{code}: ") and len(reason) < 1_100
    assert letters(log) == [code]
    [letter] = log.records[TopicPartition(NAMES.dead_letters, 0)]
    assert len(letter.value or b"") < LETTER_BYTES_MAX


def test_what_nobody_foresaw_rejects_one_record() -> None:
    def failing(key: bytes, count: int) -> int:
        raise ZeroDivisionError("boom")

    record = Record(NAMES.content("captions"), 0, 7, 0, b"a", b'{"text": "x"}')
    job = parse_record(record, replace(intake(NAMES, PARTITIONS), partition_of=failing))
    assert job.rejection is not None
    assert job.rejection.code == "unreadable"
    assert "boom" in job.rejection.message


def test_a_vector_that_cannot_be_written_rejects_one_record() -> None:
    record = Record(NAMES.content("captions"), 0, 7, 0, b"a", b'{"text": "x"}')
    job = EncodeJob(record, "captions", content=caption("a", "x"), vector=np.zeros(3, np.float16))
    letter, tombstone = output_records(job, ENCODER.space, intake(NAMES, PARTITIONS), "id")
    assert dict(letter.headers)["dead_letter_reason"] == b"unreadable"
    assert (tombstone.key, tombstone.value) == (b"a", None)


async def test_a_wrong_partition_gets_the_letter_alone() -> None:
    log = memory_log()
    record = content_record(NAMES.content("captions"), caption("a", "text"))
    positions = await log.publish([record])
    wrong = 1 - positions[0].partition
    await log.publish(
        [OutRecord(record.topic, record.key, record.value, record.headers, partition=wrong)]
    )
    async with running(log):
        found = await encoded(log)
    assert [e.id for e in found] == ["a"]
    assert letters(log) == ["wrong_partition"]


async def test_an_input_that_breaks_the_model_takes_no_other_with_it() -> None:
    class Fragile(HashEncoder):
        def encode_texts(self, texts):  # type: ignore[no-untyped-def]
            if "poison" in texts:
                raise RuntimeError("boom")
            return super().encode_texts(texts)

    log = memory_log()
    captions = NAMES.content("captions")
    texts = ["one", "poison", "two"]
    await log.publish([content_record(captions, caption(t, t)) for t in texts])
    async with running(log, encoder=Fragile()):
        found = {e.id: e for e in await encoded(log)}
    assert found["one"].vector is not None
    assert found["two"].vector is not None
    assert found["poison"].vector is None
    assert letters(log) == ["encode_failed"]


async def test_the_queue_is_as_deep_as_it_says() -> None:
    class Held(HashEncoder):
        may = threading.Event()

        def encode_texts(self, texts):  # type: ignore[no-untyped-def]
            assert self.may.wait(60)
            return super().encode_texts(texts)

    def depth() -> float | None:
        return metrics.registry.get_sample_value("tidelens_queue_depth", {"queue": "encode"})

    log, metrics = memory_log(), Metrics()
    captions = NAMES.content("captions")
    await log.publish([content_record(captions, caption(f"c{n}", f"text {n}")) for n in range(9)])
    async with running(log, encoder=Held(), batch_records=1, metrics=metrics):
        async with asyncio.timeout(30):
            while not depth():
                await asyncio.sleep(0.01)
        Held.may.set()
        await encoded(log)
        assert depth() == 0


async def test_pictures_wait_undecoded_when_those_for_the_model_are_large() -> None:
    may, sizes = threading.Event(), []

    class Held(HashEncoder):
        def encode_images(self, images):  # type: ignore[no-untyped-def]
            assert may.wait(60)
            return super().encode_images([image[:1, :1] for image in images])

    async def large(data: bytes) -> RgbImage:
        sizes.append(len(data))
        return np.broadcast_to(np.full(3, len(sizes), np.uint8), (4096, 4096, 3))  # 48 MiB

    log, topic = memory_log(), NAMES.content("images")
    pictures = [Content(target="images", id=f"p{n}", image=png((n, 0, 0))) for n in range(40)]
    await log.publish([content_record(topic, picture) for picture in pictures])
    async with running(log, encoder=Held(), decode=large, batch_records=8):
        before = -1
        async with asyncio.timeout(60):
            while not sizes or before != len(sizes):
                before = len(sizes)
                await asyncio.sleep(0.3)
        # One in the model, two that fill the 64 MiB, and four that were on their way.
        assert len(sizes) <= 7
        may.set()
        assert {e.id for e in await encoded(log)} == {picture.id for picture in pictures}
    assert len(sizes) == 40


class Counting(HashEncoder):
    """Remembers what it was asked to encode; waits for leave where that is given."""

    def __init__(self, may: threading.Event | None = None) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self._may = may

    def encode_texts(self, texts):  # type: ignore[no-untyped-def]
        self.batches.append(list(texts))
        assert self._may is None or self._may.wait(60)
        return super().encode_texts(texts)


async def test_the_same_input_is_encoded_once() -> None:
    log, encoder, metrics = memory_log(), Counting(), Metrics()
    topic = NAMES.content("captions")
    same = [caption(f"c{n}", "the same", metadata={"n": n}) for n in range(20)]
    await log.publish([content_record(topic, one) for one in same])
    async with running(log, encoder=encoder, metrics=metrics):
        await encoded(log)
        # And later, with other metadata.
        await log.publish([content_record(topic, caption("c0", "the same", metadata={"n": 100}))])
        found = await encoded(log)
    assert [text for batch in encoder.batches for text in batch] == ["the same"]
    assert len(found) == 21
    assert len({one.vector.tobytes() for one in found if one.vector is not None}) == 1
    assert {one.id: one.metadata for one in found}["c0"] == {"n": 100}
    reused = metrics.registry.get_sample_value(
        "tidelens_encode_reused_total", {"target": "captions"}
    )
    assert reused == 20


@pytest.mark.parametrize("digest_known", [True, False], ids=["known", "new"])
async def test_a_known_picture_is_not_read_but_its_reference_is_looked_at(
    tmp_path: Path, digest_known: bool
) -> None:
    """A producer may know the SHA-256 of any picture, and must not get a reference in by that."""
    (tmp_path / "link.png").symlink_to("/etc/passwd")
    expected = {
        "gopher://example.org/a.png": "not_enabled",
        "http://example.org/a.png": "not_enabled",
        "s3://example/a.png": "not_enabled",
        "https://example.org:8443/a.png": "reference_forbidden",
        "https://user:word@example.org/a.png": "reference_forbidden",
        "https://10.0.0.1/a.png": "reference_forbidden",
        "https://2130706433/a.png": "reference_forbidden",
        "https:///a.png": "reference_invalid",
        "file:///etc/passwd": "reference_forbidden",
        (tmp_path / "link.png").as_uri(): "reference_forbidden",
    }
    log, topic, looked_up = memory_log(), NAMES.content("images"), []

    async def lookup(host: str, port: int, family: int) -> list[tuple[int, str]]:
        looked_up.append(host)
        return []

    limits = ReferenceLimits(frozenset({"https", "file"}), 1_000_000, allow_roots=(tmp_path,))
    sha256 = hashlib.sha256(png() if digest_known else b"another").hexdigest()

    def by_reference(refs: Iterable[str]) -> list[OutRecord]:
        return [
            content_record(topic, Content(target="images", id=ref, ref=ref, sha256=sha256))
            for ref in refs
        ]

    async with (
        References(limits, lookup=lookup) as references,
        running(log, references=references),
    ):
        inline = Content(target="images", id="inline", image=png())
        await log.publish([content_record(topic, inline)])
        [first] = await encoded(log)
        await log.publish(by_reference(expected))
        found = {e.id: e for e in await encoded(log)}
        assert {ref: (found[ref].reason or "").partition(":")[0] for ref in expected} == expected
        assert sorted(letters(log)) == sorted(expected.values())
        if digest_known:
            # Neither is there, and nobody asks.
            allowed = ["https://example.org/a.png", (tmp_path / "gone.png").as_uri()]
            await log.publish(by_reference(allowed))
            found = {e.id: e for e in await encoded(log)}
            for ref in allowed:
                vector = found[ref].vector
                assert vector is not None and first.vector is not None
                assert vector.tobytes() == first.vector.tobytes()
    assert looked_up == []


async def test_what_is_known_is_bounded() -> None:
    log, encoder = memory_log(), Counting()
    topic = NAMES.content("captions")
    async with running(log, encoder=encoder, known_max=2):
        for text in ("a", "b", "c", "a", "c"):
            await log.publish([content_record(topic, caption("x", text))])
            await encoded(log)
    assert [text for batch in encoder.batches for text in batch] == ["a", "b", "c", "a"]


async def test_batches_grow_while_the_model_is_busy_and_mix_partitions() -> None:
    may = threading.Event()
    log, encoder = memory_log(), Counting(may)
    topic = NAMES.content("captions")
    async with running(log, encoder=encoder, batch_records=8):
        await log.publish([content_record(topic, caption("first", "first"))])
        async with asyncio.timeout(30):
            while not encoder.batches:
                await asyncio.sleep(0.01)
        await log.publish([content_record(topic, caption(f"c{n}", f"t{n}")) for n in range(12)])
        await asyncio.sleep(0.1)
        may.set()
        await encoded(log)
    assert [len(batch) for batch in encoder.batches][:2] == [1, 8]
    assert sum(len(batch) for batch in encoder.batches) == 13


async def test_a_picture_that_waits_holds_up_its_own_partition_only() -> None:
    log = memory_log()
    topic = NAMES.content("images")
    go, slow = asyncio.Event(), png((1, 2, 3))

    async def waiting(data: bytes) -> RgbImage:
        if data == slow:
            await go.wait()
        return await decoded(data)

    contents = [Content(target="images", id="slow", image=slow)]
    contents += [Content(target="images", id=f"p{n}", image=png((n, 0, 0))) for n in range(20)]
    places = await log.publish([content_record(topic, content) for content in contents])
    held = places[0].partition
    free = {c.id for c, p in zip(contents, places, strict=True) if p.partition != held}
    assert free
    await log.publish([content_record(NAMES.content("captions"), caption("c", "text"))])
    async with running(log, decode=waiting):
        async with asyncio.timeout(30):
            while {one.id for one in written(log)} != {*free, "c"}:
                await asyncio.sleep(0.01)
        go.set()
        assert {one.id for one in await encoded(log)} == {c.id for c in contents} | {"c"}


async def test_bombs_of_a_partition_cost_another_one_decoding_and_captions_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, topic, waits = memory_log(), NAMES.content("images"), asyncio.Event()
    load = PictureLoader.load

    async def watched(self: PictureLoader, job: EncodeJob, permit: DecodePermit) -> None:
        if job.record.key == b"good":
            waits.set()  # it is in the queue before anybody hears of this
        await load(self, job, permit)

    monkeypatch.setattr(PictureLoader, "load", watched)
    started: list[bytes] = []
    tickets = asyncio.Semaphore(0)

    async def slow(data: bytes) -> RgbImage:
        started.append(data)
        await tickets.acquire()
        return await decoded(data)

    good = content_record(topic, Content(target="images", id="good", image=png((1, 2, 3))))
    where = MURMUR2(b"good", PARTITIONS)
    names = [
        f"b{n}" for n in range(500) if MURMUR2(b"b%d" % n, PARTITIONS) == (where + 1) % PARTITIONS
    ]
    await log.publish(
        [
            content_record(topic, Content(target="images", id=name, image=png((n, 0, 7))))
            for n, name in enumerate(names[:60])
        ]
    )
    async with running(log, decode=slow):
        async with asyncio.timeout(60):
            while len(started) < 4:  # as many as there are turns
                await asyncio.sleep(0.01)
            captions = NAMES.content("captions")
            await log.publish([good, content_record(captions, caption("c", "a"))])
            while not written(log):
                await asyncio.sleep(0.01)
            assert [one.id for one in written(log)] == ["c"]
            assert len(started) == 4
            await waits.wait()
            for _ in range(100):
                tickets.release()
            assert "good" in {one.id for one in await encoded(log)}
    # Behind the four that were being decoded, and the one whose turn was next.
    assert started.index(good.value or b"") <= 5


async def test_a_decoder_that_died_gets_a_second_picture_to_try() -> None:
    tries = []

    async def dying(data: bytes) -> RgbImage:
        tries.append(data)
        if len(tries) == 1 or data == b"deadly":
            raise RejectedRecord("image_crashed", "SIGSEGV")
        return await decoded(data)

    log = memory_log()
    topic = NAMES.content("images")
    await log.publish([content_record(topic, Content(target="images", id="p", image=png()))])
    async with running(log, decode=dying):
        [found] = await encoded(log)
        assert found.vector is not None
        await log.publish(
            [content_record(topic, Content(target="images", id="d", image=b"deadly"))]
        )
        await encoded(log)
    assert letters(log) == ["image_crashed"]
    [letter] = log.records[TopicPartition(NAMES.dead_letters, 0)]
    assert letter.header("dead_letter_attempts") == b"2"


async def test_a_second_owner_takes_over_and_the_first_writes_nothing_more() -> None:
    log = memory_log()
    captions = NAMES.content("captions")
    async with log.join(NAMES.encoder_group) as old:
        await log.publish([content_record(captions, caption("a", "x"))])
        claims = await old.fetch(captions, records_max=10, timeout_ms=10)
        async with running(log):
            before = await encoded(log)
        from contracts.errors import Fenced

        with pytest.raises(Fenced):
            await old.commit(claims[0], [])
        assert [e.id for e in before] == ["a"]


def test_superseded_records_of_a_batch_are_left_out() -> None:
    log = memory_log()
    topic = NAMES.content("captions")
    for text in ("old", "new"):
        log._append(content_record(topic, caption("same", text)))
    records = next(records for records in log.records.values() if records)
    assert [r.offset for r in newest_of_each(records)] == [1]


@pytest.mark.parametrize(
    ("image", "code"),
    [(b"", "image_format"), (b"not a picture", "image_format"), (png()[:40], "image_broken")],
)
async def test_broken_pictures_are_rejected(image: bytes, code: str) -> None:
    log = memory_log()
    topic = NAMES.content("images")
    log._append(content_record(topic, Content(target="images", id="p", image=image)))
    record = next(records for records in log.records.values() if records)[0]
    job = parse_record(record, intake(NAMES, PARTITIONS))
    await PictureLoader(no_reference, none_allowed, decoded).load(job)
    assert job.rejection is not None
    assert job.rejection.code == code


async def test_a_picture_waits_for_decoders_that_cannot_be_started() -> None:
    """A decoder may be killed at its start, or memory may run out; this ended the encoder."""
    log, refusals = memory_log(), iter(["a decoder ended before its first picture"] * 3)

    async def refused(data: bytes) -> RgbImage:
        if reason := next(refusals, None):
            raise NotReady(reason)
        return await decoded(data)

    topic, part = NAMES.content("images"), Part("decode", pause_max_s=0.01)
    log._append(content_record(topic, Content(target="images", id="p", image=png())))
    record = next(records for records in log.records.values() if records)[0]
    job = parse_record(record, intake(NAMES, PARTITIONS))
    with capture_logs() as lines:
        await PictureLoader(no_reference, none_allowed, refused, part).load(job)
    assert job.rejection is None and job.image is not None
    assert (part.running, part.restarts) == (True, 3)
    assert part.reason == "a decoder ended before its first picture"
    assert len(lines) == 1


def test_references(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret.png"
    root.mkdir()
    (root / "a.png").write_bytes(b"data")
    outside.write_bytes(b"data")
    (root / "link.png").symlink_to(outside)
    (root / "circle.png").symlink_to(root / "circle.png")
    os.mkfifo(root / "pipe.png")
    digest = hashlib.sha256(b"data").hexdigest()

    def read(ref: str, sha256: str = digest, bytes_max: int = 100) -> bytes:
        return read_reference(ref, sha256, allow_roots=[root], bytes_max=bytes_max)

    assert read((root / "a.png").as_uri()) == b"data"
    for ref, code in [
        ("https://example.org/a.png", "not_enabled"),
        ("s3://bucket/a.png", "not_enabled"),
        (outside.as_uri(), "reference_forbidden"),
        ((root / ".." / "secret.png").as_uri(), "reference_forbidden"),
        ((root / "link.png").as_uri(), "reference_forbidden"),
        ("file://host/a.png", "reference_forbidden"),
        ((root / "none.png").as_uri(), "reference_missing"),
        ("file:///a%00b", "reference_missing"),
        ((root / "circle.png").as_uri(), "reference_missing"),
        ((root / "pipe.png").as_uri(), "reference_missing"),
        (root.as_uri(), "reference_missing"),
        ("file://[", "reference_invalid"),
        ("https://[x", "reference_invalid"),
    ]:
        with pytest.raises(RejectedRecord) as caught:
            read(ref)
        assert caught.value.code == code, ref
    with pytest.raises(RejectedRecord, match="limit 3"):
        read((root / "a.png").as_uri(), bytes_max=3)
    with pytest.raises(RejectedRecord, match="sha256"):
        read((root / "a.png").as_uri(), "0" * 64)


def labeller(**how: Any) -> Labeller:
    asked = {"count": 2, "probability_min": 0.1, **how}
    return Labeller(ENCODER, ["red cat", "blue dog", "green frog"], ["{}"], **asked)


async def test_each_embedding_gets_the_labels_that_fit_it() -> None:
    log = memory_log()
    async with running(log, labeller=labeller()):
        topic = NAMES.content("captions")
        own = caption("own", "red cat", metadata={"labels": ["mine"], "n": 1})
        contents = [caption("a", "blue dog", metadata={"n": 2}), own, caption("b", "qwerty")]
        await log.publish([content_record(topic, content) for content in contents])
        found = {one.id: one.metadata for one in await encoded(log)}
    assert found["a"] == {"n": 2, "labels": ["blue dog"]}
    assert found["own"] == {"labels": ["mine"], "n": 1}, "the producer's own stay"
    assert set(found["b"]) == {"labels"}


def test_labels_are_the_likeliest_and_likely_enough() -> None:
    vector = ENCODER.encode_texts(["red cat"])[0]
    assert labeller(count=3, probability_min=0.0).labels_of(vector)[0] == "red cat"
    assert len(labeller(count=3, probability_min=0.0).labels_of(vector)) == 3
    assert labeller(count=3, probability_min=0.5).labels_of(vector) == ["red cat"]
    assert labeller(count=3, probability_min=1.0).labels_of(-vector) == []
