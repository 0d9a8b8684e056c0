"""The precision that encoders start with here, and `--tune`, which finds the best one."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.finding import Finding, in_thread, ok, skipped

if TYPE_CHECKING:
    from consumers.models.tuning.candidate import CandidateResult, TuningSamples
    from consumers.models.tuning.tuner import TuningResult

# Every tenth drawing gives 192 of them; similar drawings follow each other in the list.
_EACH = 10


@in_thread
def precision(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Report the kept precision of the model, for all devices and thread counts of this machine."""
    from consumers.models import is_tunable
    from consumers.models.tuning import results_file

    if not is_tunable(settings.model):
        return [skipped("precision", f"{settings.model} is float32 always")]
    if settings.precision_named is not None:
        return [ok("precision", f"{settings.precision_named}, as the setting says")]
    name = settings.model
    if Path(name).expanduser().is_dir():
        name = Path(name).expanduser().resolve().name
    found = [
        f"{choice['precision']}, {choice['pictures']} pictures and {choice['texts']} texts at once "
        f"({key.partition(' | ')[0]})"
        for key, choice in results_file.load_all().items()
        if f" | {name}@" in key
    ]
    if found:
        return [ok("precision", "; ".join(found))]
    detail = "not measured yet: a start tries float32 and bfloat16, `doctor --tune` every one"
    return [skipped("precision", detail)]


def tune_precision(
    settings: Settings, memory_bytes_max: int, tell: "Callable[[CandidateResult], None]"
) -> "TuningResult":
    """Measure all precisions of the model, which takes minutes. Raises ModelMissing."""
    from consumers.models.spaces import find_checkpoint
    from consumers.models.tuning.tuner import tune

    checkpoint = find_checkpoint(settings.model, remote_code=settings.remote_code)
    return tune(checkpoint, settings.encode_threads_used, _samples(), memory_bytes_max, tell)


def rows_of(measured: "CandidateResult") -> list[str]:
    """Return the table's rows of a candidate: its items per second by batch size."""
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
    notes = [kept] if measured.memory_bytes else []
    if measured.trouble is not None:
        notes.append(f"not usable: {measured.trouble}")
    return [*rows, f"{name:18}  {'; '.join(notes)}"]


def _samples() -> "TuningSamples":
    import numpy as np
    from PIL import Image

    from consumers.models.tuning.candidate import TuningSamples
    from training.data.openmoji import pictures, render_png

    drawings = pictures()[::_EACH]
    return TuningSamples(
        [
            np.asarray(Image.open(io.BytesIO(render_png(drawing.svg))).convert("RGB"))
            for drawing in drawings
        ],
        [drawing.name for drawing in drawings],
    )
