"""Small checkpoints with random weights, one for each family, saved as their authors save them."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?"
CHINESE = "一只猫在红色的房子里两个男人天空鸟"


def make(family: str, folder: Path, **config: Any) -> Path:
    """Create a checkpoint of one of FAMILIES; `config` extends its text side's configuration."""
    import torch

    torch.manual_seed(3)
    tokenizer, processor, model = FAMILIES[family](config)
    for name, parameter in model.named_parameters():
        # What a text says must show also in SigLIP's last position, which is mostly of padding.
        parameter.data.normal_(std=4 if name.startswith("text") and "embedding" in name else 0.3)
    if hasattr(model, "logit_scale"):
        model.logit_scale.data.fill_(2.5)
    if hasattr(model, "temperature"):  # ALIGN
        model.temperature.data.fill_(0.05)
    for part in (tokenizer, processor, model):
        part.save_pretrained(folder)
    return folder


def library() -> Any:
    return import_module("transformers")


def _bert(length_max: int) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHINESE, *LETTERS[:26]]
    words += [f"##{letter}" for letter in LETTERS[:26]]
    vocabulary = {word: row for row, word in enumerate(dict.fromkeys(words))}
    return library().BertTokenizer(vocab=vocabulary, model_max_length=length_max)


def _gemma(name: str) -> Any:
    """Create SigLIP 2's tokenizer, Gemma's: no attention mask, <eos> at the end, no limit."""
    from tokenizers import processors

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, *CHINESE]
    words += [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {word: row for row, word in enumerate(words)}
    tokenizer = getattr(library(), name)(
        vocab=vocabulary, merges=[], padding_side="right", model_input_names=["input_ids"]
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def _xlm_roberta() -> Any:
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS, *CHINESE, "<mask>"]
    pieces = [(word, 0.0 if row < 4 else -2.0) for row, word in enumerate(words)]
    return library().XLMRobertaTokenizer(vocab=pieces)


def _sizes(tokenizer: Any) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}


def _clip_processor(name: str = "CLIP") -> Any:
    size = {"height": 32, "width": 32}
    return getattr(library(), f"{name}ImageProcessorPil")(
        size={"shortest_edge": 32}, crop_size=size, do_center_crop=True
    )


def _chinese_clip(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    tokenizer = _bert(512)
    text = {**TOWER, **_sizes(tokenizer), "max_position_embeddings": 52, **config}
    made = library().ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    model = library().ChineseCLIPModel(made)
    return tokenizer, _clip_processor("ChineseCLIP"), model


def _siglip2_fixed(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The checkpoints of one resolution are of type siglip, with Gemma's plain tokenizer."""
    tokenizer = _gemma("GemmaTokenizer")
    text = {**TOWER, **_sizes(tokenizer), "max_position_embeddings": 64, **config}
    model = library().SiglipModel(library().SiglipConfig(text_config=text, vision_config=VISION))
    processor = library().SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return tokenizer, processor, model


def _siglip2_naflex(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    tokenizer = _gemma("Siglip2Tokenizer")
    text = {**TOWER, **_sizes(tokenizer), "max_position_embeddings": 64, **config}
    vision = {**TOWER, "patch_size": 16, "num_patches": 256}
    model = library().Siglip2Model(library().Siglip2Config(text_config=text, vision_config=vision))
    return tokenizer, library().Siglip2ImageProcessorPil(), model


def _altclip(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """XLM-RoBERTa counts positions from 2, and its tokenizer here names no limit."""
    tokenizer = _xlm_roberta()
    text = {**TOWER, **_sizes(tokenizer), "max_position_embeddings": 42, "project_dim": 32}
    made = library().AltCLIPConfig(
        text_config={**text, **config}, vision_config=VISION, projection_dim=24
    )
    return tokenizer, _clip_processor(), library().AltCLIPModel(made)


def _metaclip_2(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    tokenizer = _xlm_roberta()
    text = {**TOWER, **_sizes(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    made = library().MetaClip2Config(
        text_config={**text, "projection_dim": 24, **config},
        vision_config={**VISION, "projection_dim": 24},
        projection_dim=24,
    )
    return tokenizer, _clip_processor(), library().MetaClip2Model(made)


def _align(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    tokenizer = _bert(512)
    text = {**TOWER, **_sizes(tokenizer), "max_position_embeddings": 70, **config}
    vision = {
        "image_size": 32,
        "depth_coefficient": 0.3,
        "width_coefficient": 1.0,
        "depth_divisor": 8,
        "hidden_dim": 24,
        "kernel_sizes": [3, 3],
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 6],
    }
    made = library().AlignConfig(text_config=text, vision_config=vision, projection_dim=24)
    processor = library().EfficientNetImageProcessorPil(size={"height": 32, "width": 32})
    return tokenizer, processor, library().AlignModel(made)


def _blip(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    tokenizer = _bert(512)
    text = {**TOWER, **_sizes(tokenizer), "max_position_embeddings": 40, **config}
    made = library().BlipConfig(text_config=text, vision_config=VISION, projection_dim=24)
    processor = library().BlipImageProcessorPil(size={"height": 32, "width": 32})
    return tokenizer, processor, library().BlipModel(made)


def _flava(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    tokenizer = _bert(512)
    text = {**TOWER, **_sizes(tokenizer), "max_position_embeddings": 40, **config}
    made = library().FlavaConfig(
        text_config=text, image_config=VISION, multimodal_config=TOWER, projection_dim=24
    )
    return tokenizer, _clip_processor(), library().FlavaModel(made)


FAMILIES: dict[str, Callable[[Mapping[str, Any]], tuple[Any, Any, Any]]] = {
    "chinese_clip": _chinese_clip,
    "siglip2_fixed": _siglip2_fixed,
    "siglip2_naflex": _siglip2_naflex,
    "altclip": _altclip,
    "metaclip_2": _metaclip_2,
    "align": _align,
    "blip": _blip,
    "flava": _flava,
}
