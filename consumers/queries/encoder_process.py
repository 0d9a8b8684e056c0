"""The query encoder's process: it loads the model, then turns texts and pixels into vectors.

Pictures arrive decoded, so that nothing runs here that a stranger's bytes can slow down or crash.
"""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.errors import ModelMissing, RejectedRecord, TidelensError
from contracts.ports.encoder import Encoder, Preprocess, RgbImage
from contracts.score import Vectors
from contracts.supervision.children import die_with_parent
from contracts.zero_shot import query_vector

# A text in each of its templates, or the pixels of a picture.
QueryInput = list[str] | RgbImage
# A vector, or the members of a rejection (errors do not pickle well).
Answer = Vectors | dict[str, Any]


@dataclass(frozen=True, slots=True)
class QueryModel:
    """The model that the process loads; the members are the arguments of `open_encoder`."""

    model: str
    threads: int
    precision: str | None
    remote_code: bool


def identity() -> None:
    """Do nothing: the default for `prepare`."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The properties of the model that the parent needs."""

    logit_scale: float
    preprocess: Preprocess


_encoder: Encoder | None = None
_refused: str | None = None


def load(model: QueryModel, prepare: Callable[[], None]) -> None:
    """Start the process: see that it ends with the parent, then load the model.

    `prepare` runs first, so that the process's log goes where the parent's does.
    """
    global _encoder, _refused
    # A Ctrl-C in the terminal, or a service manager that stops all processes of the service, is for
    # the parent, which stops this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    die_with_parent(parent.pid)
    prepare()
    from consumers.models import open_encoder

    try:
        _encoder = open_encoder(
            model.model,
            threads=model.threads,
            precision=model.precision,
            remote_code=model.remote_code,
        )
    except Exception as error:
        # If it were raised here, the process would print a stack trace and be restarted for ever.
        _refused = str(error) if isinstance(error, TidelensError) else repr(error)


def warm_up() -> LoadedModel:
    """Answer once the model is loaded and has encoded a text and a picture.

    Raises ModelMissing if it could not be loaded.
    """
    if _refused is not None:
        raise ModelMissing(_refused)
    assert _encoder is not None
    _encoder.encode_texts(["warm up"])
    _encoder.encode_images([_encoder.preprocess(np.zeros((64, 64, 3), np.uint8))])
    return LoadedModel(_encoder.logit_scale, _encoder.preprocess)


def encode_all(inputs: Sequence[QueryInput]) -> list[Answer]:
    """Encode a batch, or one input at a time if that fails, so that no query fails for another."""
    try:
        return _encode_together(inputs)
    except Exception:
        return [_encode_alone(asked) for asked in inputs]


def _encode_alone(asked: QueryInput) -> Answer:
    try:
        return _encode_together([asked])[0]
    except Exception as error:
        return RejectedRecord("encode_failed", f"the model failed: {error!r}").members()


def _encode_together(inputs: Sequence[QueryInput]) -> list[Answer]:
    """Encode texts and pictures, one model call each. Raises whatever the model raises."""
    assert _encoder is not None
    results: list[Answer] = [{} for _ in inputs]
    texts = [(i, asked) for i, asked in enumerate(inputs) if isinstance(asked, list)]
    rows = _encoder.encode_texts([prompt for _, its_prompts in texts for prompt in its_prompts])
    start = 0
    for i, its_prompts in texts:
        its = rows[start : start + len(its_prompts)]
        start += len(its_prompts)
        try:
            results[i] = query_vector(its)
        except ValueError as error:
            results[i] = RejectedRecord("zero_vector", f"text: {error}", field="text").members()
    images = [(i, asked) for i, asked in enumerate(inputs) if not isinstance(asked, list)]
    rows = _encoder.encode_images([picture for _, picture in images])
    for (i, _), vector in zip(images, rows, strict=True):
        results[i] = vector
    return results
