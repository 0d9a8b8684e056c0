"""The model, which is checked without loading it."""

from collections.abc import Sequence
from pathlib import Path

from contracts.errors import ModelMissing
from contracts.settings import KafkaSettings, Settings
from contracts.space import Space
from tidelens.cli.doctor.finding import Finding, from_error, ok, warning
from tidelens.process.threads import in_daemon_thread

_FIX = "TIDELENS_MODEL=starter, or a folder or hub name of a CLIP-like checkpoint"


async def model(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check that the space of the model can be computed, as every start does."""
    try:
        space = await space_here(settings.model)
    except ModelMissing as error:
        return [from_error("model", error, fix=_FIX)]
    if space is None:
        detail = f"{settings.model} is not in the hub's cache; the first start downloads it"
        return [warning("model", detail, fix=f"hf download {settings.model}")]
    return [ok("model", f"{settings.model}: space {space.name}, {space.dim} dimensions")]


async def space_here(model: str) -> Space | None:
    """Return the space of the model, or None if the model would have to be downloaded first.

    Raises ModelMissing.
    """
    return await in_daemon_thread(lambda: _space_here(model))


def _space_here(model: str) -> Space | None:
    from consumers.models import model_space
    from consumers.models.spaces import STARTER
    from consumers.models.starter import weights

    if model == STARTER:
        # A start would notice a missing package only when it reads the weights.
        weights.verify_packages()
    if "/" in model and not Path(model).expanduser().is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            if try_to_load_from_cache(model, "config.json") is None:
                return None
        except HFValidationError:
            pass  # model_space raises ModelMissing
    return model_space(model)
