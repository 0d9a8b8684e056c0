"""The loading of a checkpoint's tokenizer, image processor and model from its folder.

Weights are safetensors, and no network is used. Code that comes with a checkpoint is run only if
the operator allows it (TIDELENS_REMOTE_CODE).
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from transformers import AutoModel, AutoTokenizer, TokenizersBackend

# The same name in `transformers` requires torchvision, which the Pillow backend does not need.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging as transformers_logging

from consumers.models.huggingface.checkpoint_files import CONFIG, check_weights, weight_files
from consumers.models.spaces import Checkpoint, remote_code_classes
from contracts.errors import ModelMissing


def load_checkpoint(checkpoint: Checkpoint) -> tuple[Any, Any, Any]:
    """Return tokenizer, image processor and model, in float32. Raises ModelMissing."""
    local = {"local_files_only": True, "trust_remote_code": checkpoint.remote_code}
    if checkpoint.remote_code:
        _refuse_code_of_others(checkpoint)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Otherwise its table of missing weights precedes the one line that refuses them.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        tokenizer = _tokenizer(checkpoint.folder, local)
        # Checkpoints were trained and published with the resampling of Pillow.
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            checkpoint.folder, backend="pil", **local
        )
        model, found = AutoModel.from_pretrained(
            checkpoint.folder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            # The refusal of transformers does not name the tensor.
            ignore_mismatched_sizes=True,
            **local,
        )
    except Exception as error:  # a checkpoint's own code may raise anything
        reason = _reason(error, checkpoint)
        raise ModelMissing(f"model {checkpoint.name!r} cannot be loaded: {reason}") from error
    _require_shapes(checkpoint, found["mismatched_keys"])
    _require_whole(model, found["missing_keys"], checkpoint.name)
    if model.config.model_type.startswith("siglip") and type(tokenizer).__name__.startswith(
        "Gemma"
    ):
        _lower_case(tokenizer)
    return tokenizer, processor, model


def _reason(error: Exception, checkpoint: Checkpoint) -> str:
    """Return in one line why a checkpoint cannot be loaded, and what to do if that is known."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if remote_code_classes(checkpoint.folder) and not checkpoint.remote_code:
        return (
            "it needs code of its own, which is run only with TIDELENS_REMOTE_CODE=true; "
            "read that code before"
        )
    if "sentencepiece" in reason.lower():
        return "it has no tokenizer.json; pip install sentencepiece protobuf"
    return reason


def _require_shapes(
    checkpoint: Checkpoint, mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]]
) -> None:
    """Raise ModelMissing for a tensor whose shape differs from that of the configuration.

    Each of `mismatched` is a name, the shape in the file, and the shape asked for.
    """
    if not mismatched:
        return
    name, stored, wanted = min(mismatched)
    more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
    raise ModelMissing(
        f"model {checkpoint.name!r}: {_file_of(name, checkpoint.folder)} holds {name!r} in the "
        f"shape {list(stored)}, where {CONFIG} asks for {list(wanted)}{more}; they are of "
        f"different models, fetch both from one"
    )


def _file_of(tensor: str, folder: Path) -> str:
    """Name the file that holds a tensor, or all files if transformers renames it in loading."""
    names = weight_files(folder)
    holding = [name for name in names if tensor in check_weights(folder / name)]
    return " or ".join(holding or names)


def _require_whole(model: Any, missing: Collection[str], name: str) -> None:
    """Raise ModelMissing for weights that the files lack, which transformers fills at random.

    Single numbers are left out: the scale of logits has a value of its own before training.
    """
    made_up = sorted(
        key
        for key, parameter in model.named_parameters(remove_duplicate=False)
        if key in missing and parameter.numel() > 1
    )
    if made_up:
        more = f" and {len(made_up) - 1} more" if made_up[1:] else ""
        raise ModelMissing(
            f"model {name!r}: its weights lack {made_up[0]!r}{more}, which {type(model).__name__} "
            f"has; they are of another model or of a part of one, fetch the whole"
        )


def _tokenizer(folder: Path, local: dict[str, bool]) -> Any:
    """Return the tokenizer of a folder, from its tokenizer.json if its own class cannot be loaded.

    SigLIP's class needs sentencepiece, though its checkpoints hold a tokenizer.json too.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, **local)
    except (ImportError, ValueError):
        if remote_code_classes(folder) or not (folder / "tokenizer.json").is_file():
            raise
        tokenizer: Any = TokenizersBackend.from_pretrained(folder, local_files_only=True)
        config = folder / "tokenizer_config.json"
        named = json.loads(config.read_bytes()) if config.is_file() else {}
        tokenizer.model_input_names = named.get("model_input_names", ["input_ids"])
        return tokenizer


def _refuse_code_of_others(checkpoint: Checkpoint) -> None:
    """Raise ModelMissing for code of another repository.

    It can change while the revision, and so the space, stays the same.
    """
    for name in remote_code_classes(checkpoint.folder):
        repository, others, _ = name.rpartition("--")
        if others:
            raise ModelMissing(
                f"model {checkpoint.name!r} takes its code from {repository}, which its revision "
                f"does not cover: copy the .py files into a folder with the model, and take "
                f"{repository + others!r} out of its auto_map"
            )


def _lower_case(tokenizer: Any) -> None:
    """Let a tokenizer lower the case of texts, as Siglip2Tokenizer does and SigLIP 2 was trained.

    The checkpoints of SigLIP 2 name the tokenizer of Gemma, which does not do it.
    """
    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(steps)
