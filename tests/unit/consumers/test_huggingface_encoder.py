"""Hugging Face checkpoints: tiny random ones, against transformers' own way to the same vectors."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from consumers.models import model_space, open_encoder
from contracts.errors import ModelMissing
from contracts.ports.encoder import Encoder, RgbImage

pytestmark = pytest.mark.model

WORDS = [
    *"abcdefghij",
    "photo",
    "of",
    "cat",
    "two",
    "men",
    "in",
    "the",
    "red",
    "house",
    "sky",
    "bird",
]
TEXTS = ["a photo of a cat", "sky", "two men in the red house", "unknown words", "", "bird " * 90]
KINDS = ("clip", "siglip")
PROJECTION = {"clip": 24, "siglip": 32}
TOKENS_MAX = 18  # no multiple of the step that lengths are rounded up by


def make_checkpoint(kind: str, folder: Path) -> Path:
    """Save random weights of a small CLIP or SigLIP, as their authors save them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    transformers: Any = import_module("transformers")
    torch.manual_seed(3)
    vocabulary = {word: row for row, word in enumerate(["<pad>", "<unk>", *WORDS, "<s>", "</s>"])}
    start, end = vocabulary["<s>"], vocabulary["</s>"]
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=TOKENS_MAX,
        model_input_names=["input_ids"] if kind == "siglip" else ["input_ids", "attention_mask"],
    ).save_pretrained(folder)

    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    text = {
        **tower,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": TOKENS_MAX,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": 0,
    }
    vision = {**tower, "image_size": 32, "patch_size": 8}
    if kind == "clip":
        processor = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config)
    else:
        processor = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    processor.save_pretrained(folder)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    model.logit_scale.data.fill_(2.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(
        request.param, tmp_path_factory.mktemp("models") / f"Tiny_{request.param}"
    )


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Iterator[Encoder]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield open_encoder(str(checkpoint), threads=1, precision="float32")


def pictures(count: int) -> list[RgbImage]:
    random = np.random.default_rng(5)
    sizes = [(32, 32), (40, 90), (200, 64), (33, 31), (1, 1), (3, 5)]
    return [
        random.integers(0, 255, (*sizes[row % len(sizes)], 3), dtype=np.uint8)
        for row in range(count)
    ]


def reference(checkpoint: Path, images: list[RgbImage]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return text and image vectors of the model's own forward pass, one input at a time."""
    import torch

    transformers: Any = import_module("transformers")
    image_processors: Any = import_module("transformers.models.auto.image_processing_auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    processor = image_processors.AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    model = transformers.AutoModel.from_pretrained(checkpoint)
    texts_out, images_out = [], []
    for row in range(max(len(images), len(TEXTS))):
        tokens = tokenizer(
            TEXTS[row % len(TEXTS)],
            padding="max_length",
            max_length=TOKENS_MAX,
            truncation=True,
            return_tensors="pt",
        )
        pixels = processor(Image.fromarray(images[row % len(images)]), return_tensors="pt")
        with torch.no_grad():
            output = model(**tokens, **pixels)
        texts_out.append(output.text_embeds[0].numpy())
        images_out.append(output.image_embeds[0].numpy())
    return np.array(texts_out[: len(TEXTS)]), np.array(images_out[: len(images)])


def cosines(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    result: NDArray[Any] = (ours * theirs).sum(1) / lengths
    return result


def encoded(encoder: Encoder, images: list[RgbImage]) -> NDArray[Any]:
    return encoder.encode_images([encoder.preprocess(image) for image in images])


@pytest.mark.parametrize("kind", ["CLIP", "ChineseCLIP", "Siglip"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"height": 40, "width": 24}, "do_center_crop": False},
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 41, "width": 33}},
        {"do_normalize": False, "resample": 2},
    ],
    ids=["default", "squeezed", "framed", "plain"],
)
def test_preprocessing_equals_the_checkpoint_own_processor(
    kind: str, options: dict[str, Any]
) -> None:
    """Pixels are equal to the bit, and the rest differs by the rounding of float32."""
    from consumers.models.huggingface.image_processor import split_processor

    transformers: Any = import_module("transformers")
    if "crop_size" in options:
        options = {**options, "do_center_crop": True}
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    halves = split_processor(processor)
    assert halves is not None
    preprocess, normalise = halves
    for image in pictures(6):
        theirs = processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
        ours = normalise(torch_of(preprocess(image)))[0].numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-6


def torch_of(pixels: RgbImage) -> Any:
    import torch

    return torch.from_numpy(pixels[None].copy())


def test_vectors_equal_those_of_transformers(checkpoint: Path, encoder: Encoder) -> None:
    images = pictures(40)  # more than one batch
    texts_theirs, images_theirs = reference(checkpoint, images)
    texts_ours, images_ours = encoder.encode_texts(TEXTS), encoded(encoder, images)
    assert cosines(texts_ours, texts_theirs).min() > 0.9999
    assert cosines(images_ours, images_theirs).min() > 0.9999
    assert cosines(texts_ours[:1], texts_theirs[1:2]).max() < 0.9995  # they do differ by content


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_other_precisions_keep_close_to_float32(
    checkpoint: Path, encoder: Encoder, precision: str
) -> None:
    other = open_encoder(str(checkpoint), threads=1, precision=precision)
    assert other.space == encoder.space
    images = pictures(12)
    for ours, theirs in (
        (other.encode_texts(TEXTS), encoder.encode_texts(TEXTS)),
        (encoded(other, images), encoded(encoder, images)),
    ):
        assert cosines(ours, theirs).min() > 0.99
        assert (ours != theirs).any()


def test_the_first_start_probes_and_the_next_takes_what_is_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consumers.models.precision import PrecisionChoice
    from consumers.models.spaces import find_checkpoint
    from consumers.models.tuning import chosen_precision, probe, results_file

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = find_checkpoint(str(checkpoint))
    first = probe.open_probed(found, None)
    assert first.choice.precision in ("float32", "bfloat16")
    monkeypatch.setattr(probe, "_faster", None)
    assert probe.open_probed(found, None).choice == first.choice
    [key] = results_file.load_all()
    chosen_precision.save_choice(key, PrecisionChoice("int8", 4, 8))
    assert probe.open_probed(found, None).choice == PrecisionChoice("int8", 4, 8)
    assert probe.open_probed(found, "float32").choice.precision == "float32"
    (tmp_path / "tidelens" / "precision.json").write_text(json.dumps({key: {"precision": "f4"}}))
    assert chosen_precision.load_choice(key) is None


def test_a_batch_too_large_for_the_memory_is_halved_and_that_is_remembered(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from consumers.models.huggingface.encoder import HuggingFaceEncoder
    from consumers.models.precision import PrecisionChoice
    from consumers.models.spaces import find_checkpoint

    encoder: Any = HuggingFaceEncoder(
        find_checkpoint(str(checkpoint)), PrecisionChoice(pictures=32)
    )
    images = [encoder.preprocess(image) for image in pictures(40)]
    wanted_images, wanted_texts = encoder.encode_images(images), encoder.encode_texts(TEXTS * 12)
    sizes = []

    def short(name: str) -> None:
        real = getattr(encoder._model, name)

        def limited(**inputs: Any) -> Any:
            rows = len(next(iter(inputs.values())))
            sizes.append(rows)
            if rows > 8:
                raise torch.OutOfMemoryError("out of memory")
            return real(**inputs)

        monkeypatch.setattr(encoder._model, name, limited)

    short("get_image_features")
    short("get_text_features")
    assert cosines(encoder.encode_images(images), wanted_images).min() > 0.9999
    assert sizes == [32, 16, 8, 8, 8, 8, 8]
    sizes.clear()
    encoder.encode_images(images)
    assert sizes == [8] * 5
    assert cosines(encoder.encode_texts(TEXTS * 12), wanted_texts).min() > 0.9999
    monkeypatch.setattr(
        encoder._model, "get_image_features", lambda **_: (_ for _ in ()).throw(RuntimeError("no"))
    )
    with pytest.raises(RuntimeError, match="no"):
        encoder.encode_images(images)


def test_texts_that_are_cut_are_counted(encoder: Encoder) -> None:
    before = encoder.truncated
    encoder.encode_texts(["a", "bird " * 90, "sky", "cat " * 17, "cat " * 16])
    assert encoder.truncated == before + 2


def test_vectors_are_float16_unit_rows_in_the_order_given(encoder: Encoder) -> None:
    texts = [f"{'a ' * (row % 7)}photo {WORDS[row % len(WORDS)]}" for row in range(150)]
    vectors = encoder.encode_texts(texts)
    assert vectors.dtype == np.float16
    assert vectors.shape == (150, encoder.space.dim)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-3
    for row in (0, 77, 149):
        assert cosines(vectors[row : row + 1], encoder.encode_texts([texts[row]])).min() > 0.9999
    assert encoder.encode_texts([]).shape == (0, encoder.space.dim)
    assert encoder.encode_images([]).shape == (0, encoder.space.dim)


def test_scale_side_and_space(checkpoint: Path, encoder: Encoder) -> None:
    kind = checkpoint.name.removeprefix("Tiny_")
    assert encoder.logit_scale == pytest.approx(np.exp(2.5), rel=1e-5)
    assert encoder.preprocess.side == 32
    space = encoder.space
    assert space.dim == PROJECTION[kind]
    assert space.name == f"tiny-{kind}-{space.revision[:8]}"
    assert space == model_space(str(checkpoint))


def test_a_long_strip_costs_no_memory(encoder: Encoder) -> None:
    strip = np.zeros((1, 3_000_000, 3), np.uint8)
    assert encoded(encoder, [strip]).shape == (1, encoder.space.dim)


def test_space_is_the_same_wherever_the_folder_lies_and_differs_with_its_bytes(
    checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / checkpoint.name
    copy.mkdir(parents=True)
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert model_space(str(copy)) == model_space(str(checkpoint))
    (copy / "README.md").write_text("no part of the model")
    assert model_space(str(copy)) == model_space(str(checkpoint))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model_space(str(copy)).fingerprint != model_space(str(checkpoint)).fingerprint


def test_space_needs_neither_torch_nor_transformers(checkpoint: Path) -> None:
    program = (
        "import sys; from consumers.models import model_space; model_space(sys.argv[1]);"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program, str(checkpoint)], check=True, timeout=90)


def test_a_snapshot_in_the_hub_cache_serves_without_network(
    checkpoint: Path, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--owner--tiny"
    snapshot = cached / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    program = (
        "from consumers.models import model_space; space = model_space('owner/tiny');"
        "print(space.name, space.model, space.revision)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        timeout=90,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["tiny-01234567", "owner/tiny", commit]


def test_missing_models_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    for model, expected in (
        ("owner/nowhere", "give a folder"),
        (str(tmp_path / "absent"), "no such folder"),
        (str(tmp_path / "empty"), "no config.json"),
        (str(tmp_path / "pickled"), "only safetensors"),
    ):
        for ask in (model_space, open_encoder):
            with pytest.raises(ModelMissing, match=expected) as caught:
                ask(model)
            assert "\n" not in str(caught.value)


def test_other_models_and_remote_code_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_bytes())
    config |= {"model_type": "home-made", "auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(ModelMissing, match="cannot be loaded"):
        open_encoder(str(tmp_path))
