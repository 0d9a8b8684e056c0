"""The implementations of contracts.ports.encoder: the starter model and Hugging Face checkpoints.

Importing this package is fast; `open_encoder` imports torch, and `model_space` does not.
"""

import re

from consumers.models.spaces import STARTER, checkpoint_space, find_checkpoint, starter_space
from contracts.ports.encoder import Encoder
from contracts.space import Space
from contracts.testing.encoder import HashEncoder

__all__ = ["is_tunable", "model_space", "open_encoder"]

# The name of the in-memory encoder: with it, tests run the installed commands without torch.
HASH = "hash"
# Its name with another dimension, such as `hash:48`, which is a second space to switch to.
_HASH_DIM = re.compile(r"hash:([1-9][0-9]{0,3})")


def open_encoder(
    model: str,
    *,
    threads: int | None = None,
    precision: str | None = None,
    remote_code: bool = False,
) -> Encoder:
    """Load `model`: "starter", a local folder, a Hugging Face hub name, "hash" or "hash:DIM".

    `threads` is how many threads torch may use in this process; None leaves that to torch.
    `precision` is one of precision.PRECISIONS for a checkpoint; None takes what was measured to be
    best on this machine, or otherwise a probe of two seconds. With `remote_code`, Python code that
    a checkpoint brings may be run. Loading the starter takes about 7 s, nearly all of it importing
    torch. Raises ModelMissing.
    """
    hashes = _hash_encoder(model)
    if hashes is not None:
        return hashes
    if model != STARTER:
        # This is done before the slow import, so that a wrong name fails at once.
        checkpoint = find_checkpoint(model, remote_code=remote_code)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if model == STARTER:
        from consumers.models.starter.encoder import StarterEncoder

        return StarterEncoder()
    from consumers.models.precision import PRECISIONS
    from consumers.models.tuning.probe import open_probed

    named = next((known for known in PRECISIONS if known == precision), None)
    return open_probed(checkpoint, named)


def model_space(model: str) -> Space:
    """Return the space that `open_encoder(model)` encodes into, without loading the model.

    It takes 20 ms for the starter. The weights of a local folder are read once for their SHA-256,
    and a hub name is downloaded if it is not in the cache yet. No code of a checkpoint is run.
    Raises ModelMissing.
    """
    hashes = _hash_encoder(model)
    if hashes is not None:
        return hashes.space
    return starter_space() if model == STARTER else checkpoint_space(find_checkpoint(model))


def is_tunable(model: str) -> bool:
    """Return whether `model` is a checkpoint, which can run in several precisions."""
    return model != STARTER and _hash_encoder(model) is None


def _hash_encoder(model: str) -> HashEncoder | None:
    if model == HASH:
        return HashEncoder()
    sized = _HASH_DIM.fullmatch(model)
    return HashEncoder(int(sized[1]), f"hash-{sized[1]}") if sized else None
