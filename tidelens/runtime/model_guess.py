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
    """Return the model that answered last on this machine, or the settings' if it is gone."""
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
    """Return the space of `model`. Raises ModelMissing if its files are missing or faulty."""
    try:
        return model_space(model)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ModelMissing(f"model {model!r}: {error}") from error


def absolute(model: str) -> str:
    """Return a folder's absolute path, since other processes have other working directories.

    The name of a model that is not a folder is returned unchanged.
    """
    if not is_tunable(model):
        return model  # A built-in model, even if a folder has its name.
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model
