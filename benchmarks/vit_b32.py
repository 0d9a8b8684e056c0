"""A checkpoint of CLIP ViT-B/32's shape with random weights, and content to encode with it.

Speed does not depend on what the weights are, and a random one needs no network.
"""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contracts.events.content_event import Content

PHOTOS = Path(__file__).parent.parent.parent / "shared" / "data" / "photos"
_VOCABULARY = (
    "a red blue green small large dog cat horse bicycle train boat child woman man running sitting "
    "jumping beach street mountain river house garden snow rain night morning with near under over"
)
_WORDS = _VOCABULARY.split()


def make(folder: Path, *, layers: int = 12, width: int = 0) -> Path:
    """Write the checkpoint; 600 MB, or a small one of another depth and width."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config: Any = CLIPConfig()
    for tower in (config.text_config, config.vision_config):
        tower.num_hidden_layers = layers
        if width:
            tower.hidden_size, tower.intermediate_size = width, 4 * width
            tower.num_attention_heads = 4
    start, end = 49406, 49407
    vocabulary = {word: row for row, word in enumerate(["<pad>", "<unk>", *_WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary | {"<s>": start, "</s>": end}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    fast: Any = PreTrainedTokenizerFast
    fast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=77,
    ).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    config.text_config.eos_token_id = end
    CLIPModel(config).save_pretrained(folder)
    return folder


def jpegs() -> list[bytes]:
    """Return real photos of about 640 x 480 if there are any, and noise of that size otherwise."""
    found = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]
    if found:
        return found
    dice = np.random.default_rng(1)
    made = []
    for _ in range(32):
        small = Image.fromarray(dice.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def pictures(count: int, of: Sequence[bytes], name: str = "picture") -> list[Content]:
    """Return pictures with bytes of their own, so that none is re-used.

    Decoders ignore what follows the end of a picture.
    """
    return [
        Content(target="images", id=f"{name}/{n}", image=of[n % len(of)] + f"{name} {n}".encode())
        for n in range(count)
    ]


def captions(count: int, name: str = "caption") -> list[Content]:
    """Return captions of 6 to 14 words, the lengths of COCO's; each is a new text to the cache."""
    dice = random.Random(1)
    return [
        Content(
            target="captions",
            id=f"{name}/{n}",
            text=" ".join(dice.choices(_WORDS, k=dice.randint(6, 14))) + f" {name}{n}",
        )
        for n in range(count)
    ]
