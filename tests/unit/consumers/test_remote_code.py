"""Checkpoints that bring code of their own, and those of open_clip."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.models import model_space, open_encoder
from consumers.models.spaces import find_checkpoint
from contracts.errors import ModelMissing
from contracts.settings import load
from tests.kits.checkpoints import make
from tidelens.runtime.query_encoder import make_queries

pytestmark = pytest.mark.model

MODELING = """
from transformers import ChineseCLIPConfig, ChineseCLIPModel, PreTrainedTokenizer

from .words import WORDS


class HomeConfig(ChineseCLIPConfig):
    model_type = "home-made"


class HomeModel(ChineseCLIPModel):
    config_class = HomeConfig


class HomeTokenizer(PreTrainedTokenizer):
    model_input_names = ["input_ids", "attention_mask"]

    @property
    def vocab_size(self):
        return len(WORDS)

    def get_vocab(self):
        return {word: row for row, word in enumerate(WORDS)}

    def _tokenize(self, text):
        return text.split()

    def _convert_token_to_id(self, token):
        return WORDS.index(token) if token in WORDS else 1

    def save_vocabulary(self, folder, filename_prefix=None):
        return ()
"""
WORDS = 'WORDS = ["[PAD]", "[UNK]", "a", "cat", "red", "house"]\n'


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the folder to which transformers copies code before it runs it."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make("chinese_clip", tmp_path / "home-made")
    (folder / "modeling_home.py").write_text(MODELING)
    (folder / "words.py").write_text(WORDS)
    edit(
        folder / "config.json",
        model_type="home-made",
        auto_map={"AutoConfig": "modeling_home.HomeConfig", "AutoModel": "modeling_home.HomeModel"},
    )
    for name in folder.glob("tokenizer*"):
        name.unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "HomeTokenizer",
                "auto_map": {"AutoTokenizer": ["modeling_home.HomeTokenizer", None]},
                "pad_token": "[PAD]",
                "unk_token": "[UNK]",
                "model_max_length": 10,
            }
        )
    )
    return folder


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))


def test_code_runs_only_when_it_may(folder: Path) -> None:
    with pytest.raises(ModelMissing, match="TIDELENS_REMOTE_CODE=true") as caught:
        open_encoder(str(folder), threads=1, precision="float32")
    assert "\n" not in str(caught.value)
    assert not list(folder.parent.glob("modules/*"))
    encoder = open_encoder(str(folder), threads=1, precision="float32", remote_code=True)
    assert encoder.space == model_space(str(folder))
    assert encoder.space.dim == 24
    vectors = encoder.encode_texts(["a cat", "a red house", "cat " * 11, "cat " * 10])
    assert vectors.shape == (4, 24)
    assert encoder.truncated == 1  # a tokenizer in Python does not tell; it is counted all the same
    picture = encoder.preprocess(np.zeros((40, 50, 3), np.uint8))
    assert encoder.encode_images([picture]).shape == (1, 24)


def test_the_space_differs_with_the_code(folder: Path) -> None:
    before = model_space(str(folder))
    (folder / "words.py").write_text(WORDS + "# another\n")
    assert model_space(str(folder)).fingerprint != before.fingerprint


def test_code_of_another_repository_is_refused(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "owner/code--modeling_home.HomeModel"})
    with pytest.raises(ModelMissing, match="takes its code from owner/code") as caught:
        open_encoder(str(folder), threads=1, precision="float32", remote_code=True)
    assert "'owner/code--'" in str(caught.value)


def test_what_the_code_raises_is_one_line(folder: Path) -> None:
    (folder / "words.py").write_text("raise ZeroDivisionError('in words')\n")
    with pytest.raises(ModelMissing, match=r"cannot be loaded: in words$"):
        open_encoder(str(folder), threads=1, precision="float32", remote_code=True)


def test_the_setting_reaches_the_query_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load().remote_code is False
    monkeypatch.setenv("TIDELENS_REMOTE_CODE", "true")
    queries = make_queries(load(model=str(folder)))
    assert queries.encoder._model.remote_code is True


def test_the_setting_reaches_the_encode_role(folder: Path, tmp_path: Path) -> None:
    """The role runs in a process of its own, since modules of a checkpoint stay imported."""
    program = (
        "import sys; from contracts.settings import load;"
        "from tidelens.runtime.encode_role import _load;"
        "print(_load(load(model=sys.argv[1], precision='float32')).space.dim)"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "role")}
    for value, expected in (("true", "24"), ("false", "TIDELENS_REMOTE_CODE")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            env={**environment, "TIDELENS_REMOTE_CODE": value},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert expected in done.stdout + done.stderr


@pytest.mark.parametrize("remote_code", [False, True])
def test_the_hub_is_asked_for_code_only_when_it_may_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, remote_code: bool
) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    beside = ["open_clip_model.safetensors", "model-00001-of-00002.safetensors", "spiece.model"]
    files = [*(path.name for path in folder.iterdir()), *beside, "onnx/config.json", "flax.msgpack"]
    fetched: list[str] = []

    def download(model: str, **patterns: Any) -> str:
        fetched.extend(filter_repo_objects(files, **patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint("owner/home-made", remote_code=remote_code).remote_code is remote_code
    assert ("words.py" in fetched) is remote_code
    assert {"config.json", "model.safetensors", *beside[1:]} <= set(fetched)
    assert not {"open_clip_model.safetensors", "onnx/config.json", "flax.msgpack"} & set(fetched)


def test_an_open_clip_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    for ask in (model_space, open_encoder):
        with pytest.raises(ModelMissing, match="is of open_clip") as caught:
            ask(str(tmp_path))
        assert "\n" not in str(caught.value)
    # Beside transformers' files they are not a part of the model.
    folder = make("blip", tmp_path / "blip")
    before = model_space(str(folder))
    shutil.copy(tmp_path / "open_clip_model.safetensors", folder)
    assert model_space(str(folder)) == before
