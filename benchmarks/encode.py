"""The encoder worker end to end against what its parts could do: Kafka in, Kafka out.

    python -m benchmarks.encode [--quick] [--json FILE] [--precision P]

A checkpoint of ViT-B/32's shape; JPEG decoding included. In turns with the worker, because the
speed of machines changes by the minute: the bare model on prepared tensors, decoding alone, plain
Pillow, and the seed's loop (float32, one picture at a time, the processor of transformers). On a
CPU model and decoding share the cores, so the bound is cores / (model core-seconds + decode
core-seconds) a picture; on a GPU it is the bare model.
"""

import asyncio
import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import vit_b32
from benchmarks.encoding import PARTITIONS, encoder, publish, topics
from benchmarks.report import Goal, finish, parser
from contracts.events.content_event import Content
from contracts.events.record import TopicPartition
from contracts.topics import Names
from streams.devbroker.broker import LocalBroker
from streams.kafka.event_log import KafkaEventLog

CORES = len(os.sched_getaffinity(0))
# Of the run, what passes before the clock starts: batches grow to their size.
WARM = 0.15
_TEXTS, _SEED_PICTURES = 1024, 8


def main() -> None:
    arguments = parser("encode", "The encoder worker against its bare parts.")
    arguments.add_argument("--precision", default="auto")
    given = arguments.parse_args()
    sizes = (400, 2_000, 2) if given.quick else (800, 4_000, 5)
    with tempfile.TemporaryDirectory(prefix="tidelens-bench-") as folder:
        model = vit_b32.make(Path(folder) / "vit-b-32")
        rows, goals = asyncio.run(measure(model, Path(folder), given.precision, *sizes))
    finish("encode", rows, goals, given.json)


async def measure(
    model: Path, folder: Path, precision: str, pictures: int, captions: int, turns: int
) -> tuple[list[dict[str, Any]], list[Goal]]:
    """Measure pictures and captions in several turns, and return rows and goals."""
    jpegs = vit_b32.jpegs()
    bare = await asyncio.to_thread(Bare, model, precision, jpegs)
    seen, read = Turns(bare.pictures), Turns(bare.texts)
    broker = LocalBroker(folder / "kafka")
    await broker.start()
    try:
        async with (
            topics(broker.bootstrap, bare.space) as (log, names),
            encoder(broker.bootstrap, model, precision),
        ):
            await _through(log, names, vit_b32.pictures(64, jpegs, "warm"))
            for turn in range(turns):
                await seen.take(log, names, vit_b32.pictures(pictures, jpegs, f"picture{turn}"))
            await _through(log, names, vit_b32.captions(256, "warm"))
            for turn in range(turns):
                await read.take(log, names, vit_b32.captions(captions, f"caption{turn}"))
    finally:
        await broker.stop()
    parts, texts = seen.parts(), read.parts()["model"]
    bound = (
        parts["model"] if bare.on_gpu else 1 / (1 / parts["model"] + 1 / parts["decoding"] / CORES)
    )
    rows = [
        {"what": "worker, pictures", "per_s": seen.rate, "of_bound": seen.rate / bound},
        {"what": "bound: model and decoding on all cores", "per_s": bound, "of_bound": 1.0},
        {"what": f"bare model, pictures, {bare.precision}", "per_s": parts["model"]},
        {"what": "decoding, a core", "per_s": parts["decoding"]},
        {
            "what": "plain Pillow (libjpeg-turbo), draft and resize, a core",
            "per_s": parts["pillow"],
        },
        {"what": "plain Pillow, every pixel decoded, a core", "per_s": parts["pillow_whole"]},
        {"what": "the seed's loop", "per_s": parts["seed"], "of_bound": parts["seed"] / bound},
        {"what": "worker, captions", "per_s": read.rate, "of_bound": read.rate / texts},
        {"what": "bare model, captions", "per_s": texts, "of_bound": 1.0},
    ]
    against_seed = 40.0 if bare.on_gpu else 6.0 if "amx_tile" in _flags() else 2.5
    return rows, [
        Goal("pictures, of the bound", seen.rate / bound, 0.90, "higher"),
        Goal("pictures, times the seed's loop", seen.rate / parts["seed"], against_seed, "higher"),
        Goal("captions, of the bare model", read.rate / texts, 0.90, "higher"),
    ]


class Turns:
    """The worker's turns, and the bare parts measured before, between and after them."""

    def __init__(self, measured: Callable[[], dict[str, float]]) -> None:
        self._measured = measured
        self._parts: list[dict[str, float]] = []
        self._records, self._seconds = 0, 0.0

    async def take(self, log: KafkaEventLog, names: Names, contents: Sequence[Content]) -> None:
        if not self._parts:
            self._parts.append(await asyncio.to_thread(self._measured))
        records, seconds = await _through(log, names, contents)
        self._records += records
        self._seconds += seconds
        self._parts.append(await asyncio.to_thread(self._measured))

    @property
    def rate(self) -> float:
        return self._records / self._seconds

    def parts(self) -> dict[str, float]:
        """Return the mean over all turns; the inner ones stand beside two turns and count twice."""
        weights = [1, *[2] * (len(self._parts) - 2), 1]
        return {
            name: float(np.average([part[name] for part in self._parts], weights=weights))
            for name in self._parts[0]
        }


class Bare:
    """The rates of the parts alone, each in its best way."""

    def __init__(self, model: Path, precision: str, jpegs: Sequence[bytes]) -> None:
        from consumers.models import open_encoder
        from consumers.models.huggingface.encoder import HuggingFaceEncoder

        encoder = open_encoder(
            str(model), threads=CORES, precision=None if precision == "auto" else precision
        )
        assert isinstance(encoder, HuggingFaceEncoder)
        self._encoder, self._model, self._jpegs = encoder, model, jpegs
        self.space = encoder.space.name
        self.precision = encoder.choice.precision
        self.on_gpu = encoder._device.type == "cuda"
        batch = encoder.choice.pictures
        prepared = [self._decoded(jpegs[n % len(jpegs)]) for n in range(batch)]
        texts = [c.text or "" for c in vit_b32.captions(_TEXTS)]
        words = encoder._tokens(texts)
        order, lengths = encoder._by_length(words)
        self._inputs = encoder._inputs(prepared)
        self._tokens = []
        while order:
            count = encoder._passes.first(lengths, encoder.choice.texts)
            self._tokens.append(encoder._pad(words, order[:count]))
            del order[:count], lengths[:count]
        self._seed_one = self._seed()

    def pictures(self) -> dict[str, float]:
        seed_s = _least(self._seed_one)
        return {
            "model": self._encoder.choice.pictures / _least(self._see),
            "decoding": 1 / _core_s(self._decoded, self._jpegs),
            "pillow": 1 / _core_s(lambda data: _pillow(data, draft=True), self._jpegs),
            "pillow_whole": 1 / _core_s(lambda data: _pillow(data, draft=False), self._jpegs),
            "seed": _SEED_PICTURES / seed_s,
        }

    def texts(self) -> dict[str, float]:
        return {"model": _TEXTS / _least(self._read)}

    def _decoded(self, data: bytes) -> Any:
        from consumers.images.decode import decode_image

        preprocess = self._encoder.preprocess
        image = decode_image(data, bytes_max=10**8, pixels_max=10**8, side_hint=preprocess.side)
        return preprocess(image)

    def _see(self) -> None:
        self._run(self._encoder._model.get_image_features, [self._inputs])

    def _read(self) -> None:
        self._run(self._encoder._model.get_text_features, self._tokens)

    def _run(self, features: Callable[..., object], batches: Sequence[Mapping[str, Any]]) -> None:
        import torch

        with torch.inference_mode():
            for batch in batches:
                features(**batch)
            if self.on_gpu:
                torch.cuda.synchronize()

    def _seed(self) -> Callable[[], None]:
        """Encode float32, one picture at a time, with the processor of the checkpoint."""
        import torch
        from transformers import AutoModel
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(self._model, backend="pil")  # type: ignore[no-untyped-call]
        plain = AutoModel.from_pretrained(self._model).eval()
        if torch.cuda.is_available():
            plain = plain.cuda()

        def some() -> None:
            for data in self._jpegs[:_SEED_PICTURES]:
                with torch.no_grad(), Image.open(io.BytesIO(data)) as image:
                    pixels = processor(images=image.convert("RGB"), return_tensors="pt")
                    plain.get_image_features(**pixels.to(plain.device)).pooler_output.cpu()

        return some


def _pillow(data: bytes, *, draft: bool) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        if draft:
            image.draft("RGB", (224, 224))
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def _least(call: Callable[[], object], least_s: float = 5.0) -> float:
    """Return the median time of a call, in seconds, of as many calls as take `least_s`."""
    call()
    times: list[float] = []
    while sum(times) < least_s:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _core_s(call: Any, inputs: Sequence[bytes]) -> float:
    """Return the processor seconds of one call."""
    began = time.process_time()
    for data in inputs:
        call(data)
    return (time.process_time() - began) / len(inputs)


def _flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


async def _through(
    log: KafkaEventLog, names: Names, contents: Sequence[Content]
) -> tuple[int, float]:
    """Return records and seconds, from the embedding of the first `WARM` records to that of all."""
    target = contents[0].target
    partitions = [TopicPartition(names.embeddings(target), n) for n in range(PARTITIONS)]
    reader = await log.tail(await log.end_offsets(partitions))
    try:
        publishing = asyncio.create_task(publish(log, names, contents))
        seen, first, began = 0, 0, 0.0
        while seen < len(contents):
            fetched = await reader.fetch(records_max=5_000, timeout_ms=100)
            seen += sum(len(records) for records in fetched.records.values())
            if not first and publishing.done() and seen >= WARM * len(contents):
                first, began = seen, time.perf_counter()
        await publishing
        return len(contents) - first, time.perf_counter() - began
    finally:
        await reader.close()


if __name__ == "__main__":
    main()
