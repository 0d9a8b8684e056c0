"""Every family of checkpoints that is named, against transformers' own processor and model."""

import json
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from consumers.models import model_space, open_encoder
from contracts.errors import ModelMissing
from contracts.ports.encoder import Encoder
from tests.kits.checkpoints import FAMILIES, library, make
from tests.unit.consumers.test_huggingface_encoder import cosines, encoded, pictures

pytestmark = [
    pytest.mark.model,
    # Of transformers' own call, about an argument that it gives itself.
    pytest.mark.filterwarnings("ignore:`max_length` is ignored"),
]

TEXTS = ["a cat", "一只猫在红色的房子里", "two men, in the red house!", "sky", "", "bird bird bird"]
LONG = "a " * 700
# The processor's class, how its documentation has it called, and the dimension and token limit.
CALLED: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "chinese_clip": ("ChineseCLIPProcessor", {"padding": True}, 24, 52),
    "siglip2_fixed": ("SiglipProcessor", {"padding": "max_length", "max_length": 64}, 32, 64),
    "siglip2_naflex": ("Siglip2Processor", {}, 32, 64),
    "altclip": ("AltCLIPProcessor", {"padding": True}, 24, 40),
    "metaclip_2": ("CLIPProcessor", {"padding": True}, 24, 77),
    "align": ("AlignProcessor", {"padding": True}, 24, 70),
    "blip": ("BlipProcessor", {"padding": True}, 24, 40),
}


@pytest.fixture(scope="module", params=CALLED)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(request.param, tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Iterator[Encoder]:
    yield open_encoder(str(checkpoint), threads=1, precision="float32")


def theirs(checkpoint: Path, texts: list[str], images: list[Any], **more: Any) -> Any:
    """Return the outputs of the whole model, called as transformers documents it."""
    import torch

    image_processors: Any = import_module("transformers.models.auto.image_processing_auto")
    name, options, _, _ = CALLED[checkpoint.name]
    processor = getattr(library(), name)(
        image_processor=image_processors.AutoImageProcessor.from_pretrained(
            checkpoint, backend="pil"
        ),
        tokenizer=library().AutoTokenizer.from_pretrained(checkpoint),
    )
    inputs = processor(
        text=texts,
        images=[Image.fromarray(image) for image in images],
        return_tensors="pt",
        **{**options, **more},
    )
    with torch.no_grad():
        return library().AutoModel.from_pretrained(checkpoint).eval()(**inputs)


def test_vectors_equal_those_of_transformers(checkpoint: Path, encoder: Encoder) -> None:
    images = pictures(6)
    found = theirs(checkpoint, TEXTS, images)
    texts_ours, images_ours = encoder.encode_texts(TEXTS), encoded(encoder, images)
    assert cosines(texts_ours, found.text_embeds.numpy()).min() > 0.9999
    assert cosines(images_ours, found.image_embeds.numpy()).min() > 0.9999
    # They do differ by content.
    assert cosines(texts_ours[:1], encoder.encode_texts(["sky " * 12])).max() < 0.9995


def test_a_text_beyond_the_limit_is_cut_there_and_counted(
    checkpoint: Path, encoder: Encoder
) -> None:
    limit = CALLED[checkpoint.name][3]
    before = encoder.truncated
    vectors = encoder.encode_texts([LONG, "a"])
    assert encoder.truncated == before + 1
    cut = {"padding": "max_length", "max_length": limit, "truncation": True}
    found = theirs(checkpoint, [LONG, "a"], pictures(2), **cut)
    assert cosines(vectors, found.text_embeds.numpy()).min() > 0.9999


def test_the_dimension_is_read_without_loading(checkpoint: Path, encoder: Encoder) -> None:
    space = model_space(str(checkpoint))
    assert space == encoder.space
    assert space.dim == CALLED[checkpoint.name][2] == encoder.encode_texts(["a"]).shape[1]
    scale = 20 if checkpoint.name == "align" else np.exp(2.5)
    assert encoder.logit_scale == pytest.approx(scale, rel=1e-5)


def test_without_its_tokenizer_a_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The library would load such a folder, and give every text the same tokens."""
    folder = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    for ask in (model_space, open_encoder):
        with pytest.raises(
            ModelMissing, match=r"holds no tokenizer \(tokenizer.json, or"
        ) as caught:
            ask(str(folder))
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_knows_no_word_is_refused_at_the_start(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    words = tokenizer["model"]["vocab"]
    if isinstance(words, dict):
        specials = {token["content"] for token in tokenizer["added_tokens"]}
        kept: Any = {word: row for word, row in words.items() if word in specials}
    else:  # of XLM-RoBERTa, the specials first
        kept = words[:4]
    tokenizer["model"]["vocab"] = kept
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelMissing, match="gives different words the same tokens") as caught:
        open_encoder(str(folder), threads=1, precision="float32")
    assert "\n" not in str(caught.value)


def other_weights(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def refusal(folder: str, precision: str = "float32") -> str:
    with pytest.raises(ModelMissing) as caught:
        open_encoder(folder, threads=1, precision=precision)
    return str(caught.value)


def test_weights_that_make_one_vector_of_everything_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    def zero(side: str) -> Callable[[dict[str, Any]], None]:
        def change(weights: dict[str, Any]) -> None:
            for name, weight in weights.items():
                if name.startswith(side):
                    weight.zero_()

        return change

    def poison(weights: dict[str, Any]) -> None:
        next(weight for weight in weights.values() if weight.dim() > 1).fill_(float("nan"))

    said = refusal(other_weights(checkpoint, tmp_path / "text", zero("text")))
    assert "its vectors of different texts are equal to the bit" in said
    said = refusal(other_weights(checkpoint, tmp_path / "vision", zero("vis")))
    assert "its vectors of different pictures are equal to the bit" in said
    said = refusal(other_weights(checkpoint, tmp_path / "nan", poison))
    assert "hold NaN or infinity" in said


def test_weights_of_a_part_of_the_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The library would fill the missing weights at random."""

    def without_a_bias(weights: dict[str, Any]) -> None:
        del weights[next(name for name in weights if ".bias" in name and name.startswith("vis"))]

    said = refusal(other_weights(checkpoint, tmp_path / "part", without_a_bias))
    assert "its weights lack 'vision_model." in said
    assert ".bias', which " in said


def test_random_weights_are_taken_in_bfloat16_too(checkpoint: Path) -> None:
    """The few digits of bfloat16 must not make different vectors equal."""
    assert open_encoder(str(checkpoint), threads=1, precision="bfloat16").space.dim


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_other_precisions_of_naflex(tmp_path: Path, precision: str) -> None:
    """It reads the type of a weight that packing and int8 replace."""
    folder = str(make("siglip2_naflex", tmp_path / "siglip2_naflex"))
    exact = open_encoder(folder, threads=1, precision="float32")
    other = open_encoder(folder, threads=1, precision=precision)
    images = pictures(4)
    assert cosines(encoded(other, images), encoded(exact, images)).min() > 0.99


def test_siglip_2_is_asked_in_lower_case_whatever_tokenizer_it_names(tmp_path: Path) -> None:
    folder = make("siglip2_fixed", tmp_path / "siglip2_fixed")
    encoder: Any = open_encoder(str(folder), threads=1, precision="float32")
    assert type(encoder._tokenizer).__name__ == "GemmaTokenizer"
    trained = library().Siglip2Tokenizer.from_pretrained(folder)
    text = "Two MEN, in the Red House!"
    assert encoder._tokenizer(text)["input_ids"] == trained(text)["input_ids"]
    assert (encoder.encode_texts([text]) == encoder.encode_texts([text.lower()])).all()


@pytest.mark.parametrize("named", ["SiglipTokenizer", None])
def test_siglip_without_sentencepiece_reads_its_tokenizer_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    from consumers.models.huggingface import checkpoint as loading

    folder = make("siglip2_fixed", tmp_path / "siglip")
    wanted = open_encoder(str(folder), threads=1, precision="float32").encode_texts(TEXTS)
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    del config["tokenizer_class"]
    config |= {"tokenizer_class": named} if named else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

    def absent(*_: object, **__: object) -> None:
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", absent)
    found = open_encoder(str(folder), threads=1, precision="float32").encode_texts(TEXTS)
    assert cosines(found, wanted).min() > 0.9999
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    (folder / "spiece.model").write_bytes(b"\x0a\x05\x0a\x03cat")
    with pytest.raises(ModelMissing, match="pip install sentencepiece protobuf"):
        open_encoder(str(folder), threads=1, precision="float32")


def test_padding_goes_where_the_tokenizer_puts_it(tmp_path: Path) -> None:
    folder = make("chinese_clip", tmp_path / "chinese_clip")
    encoder: Any = open_encoder(str(folder), threads=1, precision="float32")
    encoder._tokenizer.padding_side = "left"
    tokens = encoder._pad(encoder._tokens(["a cat", "a photo of a cat"]), [0, 1])
    assert tokens["input_ids"][0, 0] == encoder._tokenizer.pad_token_id
    assert tokens["attention_mask"][0].tolist() == sorted(tokens["attention_mask"][0].tolist())


def test_a_family_without_one_vector_for_each_is_refused_in_one_line(tmp_path: Path) -> None:
    assert set(FAMILIES) == {*CALLED, "flava"}
    folder = make("flava", tmp_path / "flava")
    with pytest.raises(ModelMissing, match=r"makes \(1, 40, 24\) of a text") as caught:
        open_encoder(str(folder), threads=1, precision="float32")
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_run_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("blip", tmp_path / "blip")

    def failing(*_: object, **__: object) -> None:
        raise AttributeError("no such thing\nand more")

    monkeypatch.setattr(library().BlipModel, "get_image_features", failing)
    with pytest.raises(ModelMissing, match=r"does not encode: no such thing$"):
        open_encoder(str(folder), threads=1, precision="float32")
