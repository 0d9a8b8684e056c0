"""The encoder worker end to end against what its parts could do: Kafka in, Kafka out.

    python -m benchmarks.encode [--quick] [--json FILE] [--precision P]

A checkpoint of ViT-B/32's shape; JPEG decoding included. In the same run, before the worker and
after it, of which the mean counts: the bare model on prepared tensors, decoding alone, plain
Pillow, and the seed's loop (float32, one picture at a time, the processor of transformers). On a
CPU model and decoding share the cores, so the bound is cores / (model core-seconds + decode
core-seconds) a picture; on a GPU it is the bare model.
"""

import asyncio
import io
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import vit_b32
from benchmarks.encoding import PARTITIONS, encoder, publish, topics
from benchmarks.report import Goal, finish, parser
from contracts.events import Content
from contracts.records import TopicPartition
from contracts.topics import Names
from streams.broker import LocalBroker
from streams.log import KafkaLog

CORES = len(os.sched_getaffinity(0))
# Of the run, what passes before the clock starts: batches grow to their size.
WARM = 0.15


def main() -> None:
    arguments = parser("encode", "The encoder worker against its bare parts.")
    arguments.add_argument("--precision", default="auto")
    given = arguments.parse_args()
    sizes = (800, 4_000, 24) if given.quick else (4_000, 20_000, 100)
    with tempfile.TemporaryDirectory(prefix="tidelens-bench-") as folder:
        model = vit_b32.make(Path(folder) / "vit-b-32")
        rows, goals = asyncio.run(measure(model, Path(folder), given.precision, *sizes))
    finish("encode", rows, goals, given.json)


async def measure(
    model: Path, folder: Path, precision: str, pictures: int, captions: int, seed_pictures: int
) -> tuple[list[dict[str, Any]], list[Goal]]:
    jpegs = vit_b32.jpegs()
    before = await asyncio.to_thread(_bare, model, precision, jpegs, seed_pictures)
    broker = LocalBroker(folder / "kafka")
    await broker.start()
    try:
        async with (
            topics(broker.bootstrap, before["space"]) as (log, names),
            encoder(broker.bootstrap, model, precision),
        ):
            await _through(log, names, vit_b32.pictures(64, jpegs, "warm"))
            whole = await _through(log, names, vit_b32.pictures(pictures, jpegs))
            await _through(log, names, vit_b32.captions(256, "warm"))
            texts = await _through(log, names, vit_b32.captions(captions))
    finally:
        await broker.stop()
    after = await asyncio.to_thread(_bare, model, precision, jpegs, seed_pictures)
    bare = {
        name: (value + after[name]) / 2 if isinstance(value, float) else value
        for name, value in before.items()
    }
    gpu = bare["device"] == "cuda"
    model_s, decode_s = 1 / bare["model"], bare["decode_core_s"]
    bound = bare["model"] if gpu else 1 / (model_s + decode_s / CORES)
    rows = [
        {"what": "worker, pictures", "per_s": whole, "of_bound": whole / bound},
        {"what": "bound: model and decoding on all cores", "per_s": bound, "of_bound": 1.0},
        {"what": f"bare model, pictures, {bare['precision']}", "per_s": bare["model"]},
        {"what": "decoding, a core", "per_s": 1 / decode_s},
        {"what": "plain Pillow (libjpeg-turbo), draft and resize, a core", "per_s": bare["pillow"]},
        {"what": "plain Pillow, every pixel decoded, a core", "per_s": bare["pillow_whole"]},
        {"what": "the seed's loop", "per_s": bare["seed"], "of_bound": bare["seed"] / bound},
        {"what": "worker, captions", "per_s": texts, "of_bound": texts / bare["texts"]},
        {"what": "bare model, captions", "per_s": bare["texts"], "of_bound": 1.0},
    ]
    against_seed = 40.0 if gpu else 6.0 if "amx_tile" in _flags() else 2.5
    return rows, [
        Goal("pictures, of the bound", whole / bound, 0.90, "higher"),
        Goal("pictures, times the seed's loop", whole / bare["seed"], against_seed, "higher"),
        Goal("captions, of the bare model", texts / bare["texts"], 0.90, "higher"),
    ]


def _bare(
    model: Path, precision: str, jpegs: Sequence[bytes], seed_pictures: int
) -> dict[str, Any]:
    """What the parts do alone, each in its best way."""
    import torch

    from consumers.encoders import open_encoder
    from consumers.encoders.hf import HuggingFaceEncoder
    from consumers.images import decode_image

    encoder = open_encoder(
        str(model), threads=CORES, precision=None if precision == "auto" else precision
    )
    assert isinstance(encoder, HuggingFaceEncoder)
    preprocess, batch = encoder.preprocess, encoder.choice.pictures

    def decoded(data: bytes) -> Any:
        image = decode_image(data, bytes_max=10**8, pixels_max=10**8, side_hint=preprocess.side)
        return preprocess(image)

    prepared = [decoded(jpegs[n % len(jpegs)]) for n in range(batch)]
    texts = [c.text or "" for c in vit_b32.captions(1024)]
    words = encoder._tokens(texts)
    by_length = sorted(range(1024), key=lambda row: len(words["input_ids"][row]))
    size = encoder.choice.texts
    with torch.inference_mode():
        inputs = encoder._inputs(prepared)
        tokens = [encoder._padded(words, by_length[n : n + size]) for n in range(0, 1024, size)]

        def see() -> None:
            encoder._model.get_image_features(**inputs)
            if encoder._device.type == "cuda":
                torch.cuda.synchronize()

        def read() -> None:
            for some in tokens:
                encoder._model.get_text_features(**some)
            if encoder._device.type == "cuda":
                torch.cuda.synchronize()

        bare: dict[str, Any] = {"model": batch / _least(see), "texts": len(texts) / _least(read, 2)}
    bare["decode_core_s"] = _core_s(lambda data: decoded(data), jpegs)
    bare["pillow"] = 1 / _core_s(lambda data: _pillow(data, draft=True), jpegs)
    bare["pillow_whole"] = 1 / _core_s(lambda data: _pillow(data, draft=False), jpegs)
    bare |= {"device": encoder._device.type, "precision": encoder.choice.precision}
    bare["space"] = encoder.space.name
    bare["seed"] = _seed(model, jpegs, seed_pictures)
    return bare


def _pillow(data: bytes, *, draft: bool) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        if draft:
            image.draft("RGB", (224, 224))
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def _seed(model: Path, jpegs: Sequence[bytes], count: int) -> float:
    """float32, one picture at a time, the processor that came with the checkpoint."""
    import torch
    from transformers import AutoModel
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model, backend="pil")  # type: ignore[no-untyped-call]
    plain = AutoModel.from_pretrained(model).eval()
    if torch.cuda.is_available():
        plain = plain.cuda()

    def one(data: bytes) -> None:
        with torch.no_grad(), Image.open(io.BytesIO(data)) as image:
            pixels = processor(images=image.convert("RGB"), return_tensors="pt").to(plain.device)
            plain.get_image_features(**pixels).pooler_output.cpu()

    one(jpegs[0])
    began = time.perf_counter()
    for n in range(count):
        one(jpegs[n % len(jpegs)])
    return count / (time.perf_counter() - began)


def _least(call: Any, least_s: float = 5.0) -> float:
    """The median time of a call, of as many as take `least_s`."""
    call()
    times: list[float] = []
    while sum(times) < least_s:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _core_s(call: Any, inputs: Sequence[bytes]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    for data in inputs:
        call(data)
    return (time.process_time() - began) / len(inputs)


def _flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


async def _through(log: KafkaLog, names: Names, contents: Sequence[Content]) -> float:
    """Records a second, from when `WARM` of them stand in the embeddings to when all do."""
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
        return (len(contents) - first) / max(1e-9, time.perf_counter() - began)
    finally:
        await reader.close()


if __name__ == "__main__":
    main()
