"""The files of a checkpoint: each broken in each way is refused in one line that names it."""

import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from consumers.models import model_space, open_encoder
from consumers.models.huggingface.checkpoint_files import check_files
from consumers.models.starter import weights
from contracts.errors import ModelMissing
from contracts.supervision.children import module_command
from tidelens.cli.doctor.command import doctor

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 605157884\n"
)
ANNEX = b"/annex/objects/SHA256E-s605157884--4d7a214614ab2935c943f9e0ff69d22ea.safetensors\n"
PAGE = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>\n"
JSON_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
FILES = (*JSON_FILES, "model.safetensors")
MERGES = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]


def written(folder: Path) -> Path:
    """Write a folder like that of CLIP, too small to be loaded, which the check does not do."""
    folder.mkdir()
    texts = {"model_type": "clip", "text_config": {"vocab_size": 40}, "projection_dim": 8}
    (folder / "config.json").write_text(json.dumps(texts))
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 8}}')
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}}}')
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    save_file(tensors(), folder / "model.safetensors")
    return folder


def tensors() -> dict[str, Any]:
    return {
        "text_projection.weight": np.ones((8, 6), np.float32),
        "logit_scale": np.array(2.5, np.float32),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "tiny")


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{at}-of-00002.safetensors": at for at in (1, 2)}
    for (shard, _), (name, tensor) in zip(shards.items(), tensors().items(), strict=True):
        save_file({name: tensor}, folder / shard)
    weight_map = dict(zip(tensors(), shards, strict=True))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def spelled(folder: Path) -> None:
    """Write the tokenizer as in CLIP's first checkpoints."""
    (folder / "tokenizer.json").unlink()
    words = [*"catred", "t</w>", "d</w>", *("".join(pair) for pair in MERGES), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]
    (folder / "merges.txt").write_text("\n".join(lines))


def listed(folder: Path) -> None:
    """Write the tokenizer as in BERT's first checkpoints."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(f"word{at}" for at in range(40)) + "\n")


def pieced(folder: Path) -> None:
    """Write the tokenizer as sentencepiece does: fields of pieces, then one with settings."""
    (folder / "tokenizer.json").unlink()
    piece = b"\x0a\x03cat\x15\x00\x00\x80\xbf\x18\x01"
    settings = b"\x12\x03\x18\x80\x02"
    field = b"\x0a" + bytes([len(piece)]) + piece
    (folder / "sentencepiece.bpe.model").write_bytes(field * 3 + settings)


def named(folder: Path) -> str:
    """Return the line of the refusal, which is the same for each way to open the folder."""
    lines = set()
    for ask in (lambda model: check_files(Path(model), model), model_space, open_encoder):
        with pytest.raises(ModelMissing) as caught:
            ask(str(folder))
        lines.add(str(caught.value))
    [line] = lines
    assert "\n" not in line
    assert "; " in line  # what to do
    return line


def test_a_whole_folder_passes_in_every_form(tmp_path: Path) -> None:
    for at, form in enumerate((lambda _: None, sharded, spelled, listed, pieced)):
        folder = written(tmp_path / str(at))
        form(folder)
        check_files(folder, str(folder))
        assert model_space(str(folder)).dim == 8


BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "is empty"),
    "Git LFS pointer": (lambda _: POINTER, "is a Git LFS pointer of 134 bytes"),
    "git-annex pointer": (lambda _: ANNEX, "is a git-annex pointer"),
    "web page": (lambda _: PAGE, "is a web page"),
    "half": (lambda data: data[: len(data) // 2], "is not JSON|is cut off"),
    "all but a byte": (lambda data: data[:-1], "is not JSON|is cut off"),
    "a brace": (lambda _: b"{", "is not JSON|is not a safetensors file"),
    "a list": (lambda _: b"[1, 2]", "holds a list|is not a safetensors file"),
    "noise": (lambda _: bytes(range(255, 0, -1)) * 9, "is not JSON|is not a safetensors file"),
    "zeros": (lambda data: bytes(len(data)), "is not JSON|is not a safetensors file"),
    "byte-order mark": (lambda data: b"\xef\xbb\xbf" + data, "is not JSON|is not a safetensors"),
}


@pytest.mark.parametrize("way", BYTES)
@pytest.mark.parametrize("name", FILES)
def test_other_bytes_are_refused(folder: Path, name: str, way: str) -> None:
    change, reason = BYTES[way]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    found = named(folder)
    assert f"{name} " in found
    assert any(part in found for part in reason.split("|")), found


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("../blobs/absent")


def replace_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace_by_folder, "is a directory"),
        (replace_by_link, "is a link to ../blobs/absent"),
        (replace_by_loop, "is a link to"),
        (replace_by_pipe, "is no regular file"),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_refused(
    folder: Path, name: str, change: Callable[[Path], None], reason: str
) -> None:
    change(folder / name)
    assert f"{name} {reason}" in named(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_refused(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def refusing(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == name:  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", refusing)
    assert f"{name} cannot be read (Permission denied)" in named(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("config.json", "holds no config.json"),
        ("preprocessor_config.json", "holds no preprocessor_config.json"),
        ("tokenizer.json", "holds no tokenizer (tokenizer.json, or "),
        ("model.safetensors", "holds no model.safetensors"),
    ],
)
def test_an_absent_file_is_named(folder: Path, name: str, reason: str) -> None:
    (folder / name).unlink()
    found = named(folder)
    assert reason in found and str(folder) in found


def test_a_processor_in_the_newer_file_is_enough(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text('{"tokenizer_class": "x"}')
    assert "holds no preprocessor_config.json" in named(folder)
    (folder / "processor_config.json").write_text('{"image_processor": {"do_resize": true}}')
    check_files(folder, str(folder))


def test_a_tokenizer_of_its_own_code_needs_no_files(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["a.B", null]}}')
    check_files(folder, str(folder))
    (folder / "tokenizer_config.json").write_text('{"auto_map": 7}')
    assert "tokenizer_config.json has 7 as its auto_map" in named(folder)


def test_a_tokenizer_without_words_is_refused(folder: Path) -> None:
    for text in ('{"model": {"vocab": {}}}', '{"model": 7}', "{}"):
        (folder / "tokenizer.json").write_text(text)
        assert "tokenizer.json holds no words" in named(folder)


def header(**about: Any) -> bytes:
    text = json.dumps({"text_projection.weight": about}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(192)


@pytest.mark.parametrize(
    "data",
    [
        header(dtype="F32", shape=[8, 6], data_offsets=[0, 191]),
        header(dtype="F32", shape=[8, 7], data_offsets=[0, 192]),
        header(dtype="F32", shape=[-8, -6], data_offsets=[0, 192]),
        header(dtype="F32", shape="8x6", data_offsets=[0, 192]),
        header(dtype="F77", shape=[8, 6], data_offsets=[0, 192]),
        header(dtype="F32", shape=[8, 6], data_offsets=[96, 0]),
        header(dtype="F32", shape=[8, 6], data_offsets=[0, "192"]),
        header(dtype="F32", shape=[8, 6]),
        header(dtype="F32", shape=[8, 6], data_offsets=[0, 192]) + b"more",
        struct.pack("<Q", 1 << 62) + b"{}",
        b"1234567",
    ],
)
def test_headers_that_say_nonsense_are_refused(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    assert "model.safetensors is not a safetensors file" in named(folder)


def test_weights_that_were_cut_off_say_how_much_there_is(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    wanted = f"model.safetensors is cut off: {len(whole) - 100:,} bytes of {len(whole):,}"
    assert wanted in named(folder)
    path.write_bytes(whole[:50])
    assert "model.safetensors is cut off: 50 bytes of a header of " in named(folder)


@pytest.mark.parametrize("way", [way for way in BYTES if way not in ("zeros", "noise")])
def test_each_shard_is_checked(folder: Path, way: str) -> None:
    sharded(folder)
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(BYTES[way][0](path.read_bytes()))
    assert f"{path.name} " in named(folder)


def test_shards_are_those_of_the_index(folder: Path) -> None:
    sharded(folder)
    index = folder / "model.safetensors.index.json"
    first, second = sorted(path.name for path in folder.glob("model-*"))
    for text, reason in (
        ("{}", "holds no weight_map"),
        ('{"weight_map": [1]}', "holds no weight_map"),
        ('{"weight_map": {"a": 1}}', "names 1 in its weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "names '../model.safetensors'"),
        (json.dumps({"weight_map": {"a": first}}), f"{first} holds no a, which {index.name} names"),
    ):
        index.write_text(text)
        assert reason in named(folder)
    sharded_again = {"text_projection.weight": first, "logit_scale": second}
    index.write_text(json.dumps({"weight_map": sharded_again}))
    (folder / second).unlink()
    assert f"holds no {second}, which {index.name} names" in named(folder)


@pytest.mark.parametrize(
    ("form", "name", "change", "reason"),
    [
        (spelled, "vocab.json", lambda _: b"{", "is not JSON"),
        (spelled, "vocab.json", None, "merges.txt needs vocab.json"),
        (spelled, "merges.txt", None, "vocab.json needs merges.txt"),
        (spelled, "merges.txt", lambda _: b"", "is empty"),
        (spelled, "merges.txt", lambda _: POINTER, "is a Git LFS pointer"),
        (spelled, "merges.txt", lambda data: data[:-3], "which makes no word of vocab.json"),
        (spelled, "merges.txt", lambda _: b"\xff\xfe", "is not UTF-8"),
        (listed, "vocab.txt", lambda _: b"", "is empty"),
        (listed, "vocab.txt", lambda data: data[: len(data) // 2], "is cut off: 21 words"),
        (listed, "vocab.txt", lambda _: PAGE, "is a web page"),
        (pieced, "sentencepiece.bpe.model", lambda _: b"", "is empty"),
        (pieced, "sentencepiece.bpe.model", lambda data: data[:-2], "is cut off"),
        (pieced, "sentencepiece.bpe.model", lambda data: data[:20], "is cut off"),
        (pieced, "sentencepiece.bpe.model", lambda _: b"\x0f" * 9, "is not a sentencepiece"),
        (pieced, "sentencepiece.bpe.model", lambda _: POINTER, "is a Git LFS pointer"),
    ],
)
def test_vocabularies_in_files_of_their_own(
    folder: Path,
    form: Callable[[Path], None],
    name: str,
    change: Callable[[bytes], bytes] | None,
    reason: str,
) -> None:
    form(folder)
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    found = named(folder)
    assert reason in found and name in found


def test_merges_that_end_early_are_counted(folder: Path) -> None:
    spelled(folder)
    pairs = [(a, b) for a in "abcdefghij" for b in "abcdefghij"]
    words = [*"abcdefghij", *("".join(pair) for pair in pairs), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in pairs))
    check_files(folder, str(folder))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in pairs[:50]))
    assert "merges.txt is cut off: 51 of the 111 words of vocab.json" in named(folder)


def test_a_snapshot_of_the_hub_is_checked_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--owner--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / commit)
    assert model_space("owner/tiny").revision == commit
    replace_by_link(cached / "snapshots" / commit / "model.safetensors")
    with pytest.raises(ModelMissing) as caught:
        model_space("owner/tiny")
    assert str(caught.value) == (
        "model 'owner/tiny': model.safetensors is a link to ../blobs/absent, which cannot be "
        "followed (No such file or directory); fetch it again: hf download owner/tiny "
        "--force-download"
    )


def test_a_file_in_the_place_of_the_folder_says_so(folder: Path) -> None:
    with pytest.raises(ModelMissing, match="is a file; give the folder"):
        model_space(str(folder / "model.safetensors"))


def test_the_doctor_says_it_and_loads_no_torch(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(POINTER)
    told = CliRunner().invoke(doctor, ["--json", "--model", str(folder)])
    [found] = [one for one in json.loads(told.stdout)["findings"] if one["name"] == "model"]
    assert found["state"] == "failed"
    assert found["detail"] == (
        f"model '{folder}': model.safetensors is a Git LFS pointer of 134 bytes, not the file "
        f"itself"
    )
    assert found["fix"] == "fetch it again"


@pytest.mark.parametrize("command", [["encode", "--brokers", "127.0.0.1:1"], ["up", "--port", "0"]])
def test_a_command_ends_with_that_line(folder: Path, tmp_path: Path, command: list[str]) -> None:
    (folder / "config.json").write_text("{")
    if command[0] == "up":
        command = [*command, "--data", str(tmp_path / "data"), "--brokers", "127.0.0.1:1"]
    done = subprocess.run(
        module_command("tidelens", *command, "--model", str(folder)),
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "TIDELENS_ENCODE_METRICS_PORT": "0"},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    # The last line of the log, which is JSON here.
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["event"].startswith(f"model '{folder}': config.json is not JSON (")


def test_the_starter_files_are_checked_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unpacked = weights._unpacked()
    unpacked.mkdir(parents=True)
    save_file(tensors(), unpacked / "model.safetensors")
    (unpacked / "tokenizer.json").write_bytes(b"{")
    for ask in (lambda: model_space("starter"), weights.minilm_folder):
        with pytest.raises(ModelMissing, match=r"tokenizer.json is not JSON.*remove that folder"):
            ask()
    head = tmp_path / "head.safetensors"
    head.write_bytes(weights.HEAD.read_bytes()[:-1])
    monkeypatch.setattr(weights, "HEAD", head)
    with pytest.raises(ModelMissing, match=r"head.safetensors is cut off.*reinstall"):
        model_space("starter")
