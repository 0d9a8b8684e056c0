"""The starter model: its promises to the port, and that it sees and reads something at all."""

import io
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from consumers.models import model_space, open_encoder
from consumers.models.starter import weights
from contracts.errors import ModelMissing
from contracts.ports.encoder import Encoder, RgbImage
from training.data import openmoji

pytestmark = pytest.mark.model

DRAWN = [
    "cat face",
    "dog face",
    "horse face",
    "cow face",
    "pig face",
    "tiger",
    "elephant",
    "penguin",
    "rooster",
    "snail",
    "pizza",
    "red apple",
    "banana",
    "strawberry",
    "guitar",
    "umbrella",
    "bicycle",
    "airplane",
    "sailboat",
    "scissors",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    from consumers.models.starter.encoder import StarterEncoder

    return StarterEncoder()


@pytest.fixture(scope="module")
def drawings(encoder: Encoder) -> list[RgbImage]:
    by_name = {picture.name: picture for picture in openmoji.pictures()}
    pixels = [
        np.array(Image.open(io.BytesIO(openmoji.render_png(by_name[name].svg))).convert("RGB"))
        for name in DRAWN
    ]
    return [encoder.preprocess(image) for image in pixels]


def lengths(vectors: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return result


def test_vectors_are_float16_unit_rows(encoder: Encoder, drawings: list[RgbImage]) -> None:
    for vectors in (
        encoder.encode_texts(["a cat", "", "x" * 5000]),
        encoder.encode_images(drawings),
    ):
        assert vectors.dtype == np.float16
        assert vectors.shape[1] == encoder.space.dim == 768
        assert np.abs(lengths(vectors) - 1).max() < 1e-3
    assert encoder.encode_texts([]).shape == (0, 768)
    assert encoder.encode_images([]).shape == (0, 768)


def test_names_find_their_pictures(encoder: Encoder, drawings: list[RgbImage]) -> None:
    """One name in 20 would find its picture first by chance."""
    scores = (
        encoder.encode_texts(DRAWN).astype(np.float32)
        @ encoder.encode_images(drawings).astype(np.float32).T
    )
    ranks = (scores > scores.diagonal()[:, None]).sum(axis=1)
    assert (ranks == 0).mean() >= 0.6
    assert (ranks < 5).mean() >= 0.85


def test_the_same_input_gives_the_same_vector(encoder: Encoder, drawings: list[RgbImage]) -> None:
    texts = [f"{word} number {count}" for count in range(30) for word in ("red", "a blue bird")]
    assert (encoder.encode_texts(texts) == encoder.encode_texts(texts)).all()
    assert (encoder.encode_images(drawings) == encoder.encode_images(drawings)).all()


def test_a_batch_gives_what_its_members_give(encoder: Encoder, drawings: list[RgbImage]) -> None:
    texts = ["a", "a much longer caption about two men on a sailboat", "cat", "dog " * 400]
    together, alone = encoder.encode_texts(texts), [encoder.encode_texts([text]) for text in texts]
    assert np.abs(together - np.concatenate(alone)).max() < 1e-3
    together = encoder.encode_images(drawings)
    alone = [encoder.encode_images([drawing]) for drawing in drawings]
    assert np.abs(together - np.concatenate(alone)).max() < 1e-3


def test_any_shape_of_picture(encoder: Encoder) -> None:
    for height, width in ((1, 1), (1, 2_000_000), (3, 7), (224, 224), (2000, 31)):
        vector = encoder.encode_images(
            [encoder.preprocess(np.full((height, width, 3), 90, np.uint8))]
        )
        assert abs(lengths(vector)[0] - 1) < 1e-3


def test_the_central_square_is_cut_before_resizing() -> None:
    """The result is that of resizing the shorter side to 256 and cutting out the central 224."""
    from consumers.models.starter.efficientnet import PREPROCESS

    across = np.linspace(0, 255, 640, dtype=np.uint8)
    image = np.repeat(across[None, :, None], 480, axis=0).repeat(3, axis=2)
    resized = Image.fromarray(image).resize((341, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((58, 16, 58 + 224, 16 + 224))).astype(int)
    assert np.abs(PREPROCESS(image) - expected).max() <= 2


def test_minilm_equals_transformers(encoder: Encoder, cache: Path, tmp_path: Path) -> None:
    import torch

    from consumers.models.starter.minilm import MiniLM

    transformers: Any = import_module("transformers")
    found = find_spec("all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as archive:
        archive.extractall(tmp_path)
    texts = ["A cat sits on the mat.", "Ünïcode — 猫", "one", "word " * 60]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.BertModel.from_pretrained(tmp_path).eval()
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    ours = MiniLM(weights.minilm_folder(cache)).encode(texts)
    assert (ours - expected).abs().max() < 1e-5


def test_folded_network_equals_the_package_s() -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from consumers.models.starter.efficientnet import PREPROCESS, EfficientNetLite0

    path = weights.efficientnet_path()
    image = np.random.default_rng(2).integers(0, 255, (300, 260, 3), dtype=np.uint8)
    ours = EfficientNetLite0(path)
    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(path, weights_only=True))
    pixels = (torch.tensor(PREPROCESS(image)).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.inference_mode():
        expected = plain.extract_features(pixels).mean((2, 3))
        logits = plain(pixels)
    features = ours.features([PREPROCESS(image)])
    assert (features - expected).abs().max() < 1e-4
    assert (ours.class_logits(features) - logits).abs().max() < 1e-3


def test_space_is_known_without_loading(encoder: Encoder) -> None:
    assert encoder.space == model_space("starter")
    assert encoder.space.name == "starter-v1"
    assert encoder.logit_scale > 1
    program = (
        "import sys; from consumers.models import model_space;"
        "model_space('starter');"
        "sys.exit(bool({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=90)


def test_two_processes_may_unpack_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from consumers.models.starter import weights;"
        "print(weights.minilm_folder(Path(sys.argv[1])))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(answers) == 1
    (folder,) = tmp_path.iterdir()  # nothing half unpacked is left beside it
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "tokenizer.json"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder is needed")
    with pytest.raises(ModelMissing, match="XDG_CACHE_HOME"):
        weights.minilm_folder(tmp_path / "cache")


def test_other_weights_than_those_trained_with_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "EFFICIENTNET_SHA256", "0" * 64)
    monkeypatch.setattr(weights, "HEAD", tmp_path / "absent")
    with pytest.raises(ModelMissing, match="pinned version"):
        weights.efficientnet_path()
    with pytest.raises(ModelMissing, match=r"training\.train\.starter"):
        open_encoder("starter")


def test_openmoji_pictures_have_names_and_draw() -> None:
    pictures = openmoji.pictures()
    assert len(pictures) > 1900
    assert len({picture.name for picture in pictures}) == len(pictures)
    with Image.open(io.BytesIO(openmoji.render_png(pictures[0].svg, side=64))) as image:
        assert (image.format, image.size) == ("PNG", (64, 64))
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_starter_that_tells_nothing_apart_is_refused(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files have the right sizes, and the wrong bytes."""
    starter: Any = encoder
    with monkeypatch.context() as patch:
        patch.setattr(starter._text, "tokens", lambda texts: [[1, 100, 2] for _ in texts])
        with pytest.raises(ModelMissing, match="gives different words the same tokens"):
            starter._try()
    for name, what in (("encode_texts", "texts"), ("encode_images", "pictures")):
        with monkeypatch.context() as patch:
            patch.setattr(starter, name, lambda given: np.ones((len(given), 768), np.float16))
            with pytest.raises(ModelMissing, match=f"different {what} are equal to the bit"):
                starter._try()
    starter._try()
