"""The precision that encoders start with here, and `--tune`, which finds the best one."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.finding import Finding, in_thread, ok, skipped

if TYPE_CHECKING:
    from consumers.models.tuning.candidate import Measured, Samples
    from consumers.models.tuning.tuner import Tuned

# Every tenth drawing, 192 of them: kinds of drawings follow each other in the alphabet.
_EACH = 10


@in_thread
def precision(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """What is kept for the model, under any of this machine's devices and thread counts."""
    from consumers.models import tunable
    from consumers.models.tuning import results_file

    if not tunable(settings.model):
        return [skipped("precision", f"{settings.model} is float32 always")]
    if settings.precision_named is not None:
        return [ok("precision", f"{settings.precision_named}, as the setting says")]
    name = settings.model
    if Path(name).expanduser().is_dir():
        name = Path(name).expanduser().resolve().name
    found = [
        f"{choice['precision']}, {choice['pictures']} pictures and {choice['texts']} texts at once "
        f"({key.partition(' | ')[0]})"
        for key, choice in results_file.everything().items()
        if f" | {name}@" in key
    ]
    if found:
        return [ok("precision", "; ".join(found))]
    said = "not measured yet: a start tries float32 and bfloat16, `doctor --tune` every one"
    return [skipped("precision", said)]


def tune_precision(
    settings: Settings, memory_bytes_max: int, tell: "Callable[[Measured], None]"
) -> "Tuned":
    """Minutes; raises ModelMissing."""
    from consumers.models.spaces import find_checkpoint
    from consumers.models.tuning.tuner import tune

    checkpoint = find_checkpoint(settings.model, remote_code=settings.remote_code)
    return tune(checkpoint, settings.encode_threads_used, _samples(), memory_bytes_max, tell)


def rows_of(measured: "Measured") -> list[str]:
    """Of the table: what a candidate does per second, by how many go at once."""
    name = f"{measured.precision}{' compiled' if measured.compiled else ''}"
    rows = [
        f"{name:18}  {what:8}  "
        + "  ".join(f"{size:4}: {rate:<7.4g}" for size, rate in rates.items())
        for what, rates in (("pictures", measured.pictures), ("captions", measured.texts))
        if rates
    ]
    kept = f"{measured.memory_bytes / 2**20:.0f} MiB"
    if measured.cosine_min is not None and measured.agreement is not None:
        kept += f", cosine {measured.cosine_min:.4f}, top-10 agreement {measured.agreement:.3f}"
    said = [kept] if measured.memory_bytes else []
    if measured.trouble is not None:
        said.append(f"not to be taken: {measured.trouble}")
    return [*rows, f"{name:18}  {'; '.join(said)}"]


def _samples() -> "Samples":
    import numpy as np
    from PIL import Image

    from consumers.models.tuning.candidate import Samples
    from training.data.openmoji import pictures, render_png

    drawings = pictures()[::_EACH]
    return Samples(
        [
            np.asarray(Image.open(io.BytesIO(render_png(drawing.svg))).convert("RGB"))
            for drawing in drawings
        ],
        [drawing.name for drawing in drawings],
    )
