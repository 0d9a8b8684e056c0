"""Guess the model to load before Kafka has said which space is active."""

from pathlib import Path

import structlog

from consumers.models import is_tunable, model_space
from contracts.errors import ModelMissing
from contracts.settings import Settings
from contracts.space import Space
from tidelens.runtime.run_file import remembered_model

log = structlog.get_logger(__name__)


def guessed_model(settings: Settings) -> str:
    """Return the model that answered last here, if it is still here, or that of the settings."""
    remembered = remembered_model(settings.data)
    if remembered is None or remembered == settings.model:
        return settings.model
    try:
        space_here(remembered)
    except ModelMissing as error:
        log.warning("the model that answered last is not here", model=remembered, error=str(error))
        return settings.model
    return remembered


def space_here(model: str) -> Space:
    """Return the space that `model` makes. Raises ModelMissing for any fault of its files."""
    try:
        return model_space(model)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ModelMissing(f"model {model!r}: {error}") from error


def absolute(model: str) -> str:
    """Return a folder's whole path, for nodes that were started elsewhere."""
    if not is_tunable(model):
        return model  # A name of Tidelens, whatever folders exist.
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model
