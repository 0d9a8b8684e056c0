"""`doctor --tune`: what is measured, what is held to float32, and what is taken of it."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from consumers.models.spaces import find_checkpoint
from consumers.models.tuning import results_file as kept_file
from contracts.score import Vectors, unit
from tests.kits.deferred import Deferred
from tests.unit.consumers.test_huggingface_encoder import make_checkpoint
from tidelens.cli.doctor.command import doctor
from tidelens.cli.doctor.precision import rows_of

# All of these need torch.
candidate = Deferred("consumers.models.tuning.candidate")
chosen_precision = Deferred("consumers.models.tuning.chosen_precision")
huggingface = Deferred("consumers.models.huggingface.encoder")
precisions = Deferred("consumers.models.precision")
probe = Deferred("consumers.models.tuning.probe")
tuner = Deferred("consumers.models.tuning.tuner")

pytestmark = pytest.mark.model

MEMORY = 8 << 30


def rows(count: int, seed: int, dim: int = 16) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32))


def found(
    precision: precisions.Precision, pictures: Vectors, texts: Vectors
) -> candidate.CandidateVectors:
    measured = candidate.CandidateResult(precision, False, {8: 1.0}, {32: 1.0}, 1 << 20)
    return candidate.CandidateVectors(measured, pictures, texts)


def killed(
    asked: candidate.CandidateSettings, choice: precisions.PrecisionChoice
) -> candidate.CandidateVectors:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.fixture(scope="module")
def samples() -> candidate.TuningSamples:
    dice = np.random.default_rng(5)
    pictures = [dice.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(20)]
    return candidate.TuningSamples(
        pictures, [f"a photo of the {word} cat" for word in "abcdefghij"] * 2
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("clip", tmp_path_factory.mktemp("tuned") / "tiny-clip")


@pytest.mark.parametrize(
    "kept",
    [
        {"precision": "float8"},
        {"precision": ["int8"]},
        {"pictures": 0},
        {"pictures": -1},
        {"pictures": "16"},
        {"pictures": True},
        {"texts": 10**9},
        {"texts": 1.5},
        {"compiled": "no"},
    ],
)
def test_a_kept_choice_that_cannot_be_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: dict[str, object]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen_precision.save_choice("key", precisions.PrecisionChoice("int8", 8, 32))
    assert chosen_precision.load_choice("key") == precisions.PrecisionChoice("int8", 8, 32)
    kept_file.save_entry("key", asdict(precisions.PrecisionChoice("int8", 8, 32)) | kept)
    assert chosen_precision.load_choice("key") is None


@pytest.mark.timeout(240)
def test_every_precision_is_measured_and_the_best_is_kept(
    checkpoint: Path,
    samples: candidate.TuningSamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)  # a minute on its own
    # A process for each, which loads torch: the others tell nothing here that one does not.
    other: precisions.Precision = "int8" if huggingface.device_of().type == "cpu" else "bfloat16"
    monkeypatch.setattr("consumers.models.tuning.tuner.PRECISIONS", ("float32", other))
    told: list[candidate.CandidateResult] = []
    where = find_checkpoint(str(checkpoint))
    tuned = tuner.tune(where, 1, samples, MEMORY, told.append, seconds=0.02)
    assert [row.precision for row in told] == ["float32", other]
    assert list(tuned.table) == told
    assert told[0].trouble is None and told[0].cosine_min is None  # it is the measure
    for row in told[1:]:
        assert row.cosine_min is not None and row.cosine_min > 0.98
        assert (row.trouble is None) == (
            row.cosine_min >= probe.COSINE_MIN and (row.agreement or 0) >= tuner.AGREEMENT_MIN
        )
        assert all(rate > 0 for rate in (*row.pictures.values(), *row.texts.values()))
        assert 50e6 < row.memory_bytes < MEMORY
        assert row.precision in rows_of(row)[0]
    assert tuned.best is not None
    key = chosen_precision.key_of(where, huggingface.device_of(), 1)
    assert chosen_precision.load_choice(key) == tuned.best


def test_what_does_not_fit_into_the_memory_is_not_taken(
    checkpoint: Path, samples: candidate.TuningSamples
) -> None:
    asked = candidate.CandidateSettings(find_checkpoint(str(checkpoint)), 1, 1 << 20, samples, 0.01)
    row = tuner.in_process(asked, precisions.PrecisionChoice()).measured
    assert row.trouble is not None and row.trouble.endswith("more than 1 MiB")
    assert tuner.choose_fastest([row]) is None


def test_a_candidate_that_is_killed_costs_its_own_row(
    checkpoint: Path, samples: candidate.TuningSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.models.tuning.tuner.measure_candidate", killed)
    asked = candidate.CandidateSettings(find_checkpoint(str(checkpoint)), 1, MEMORY, samples)
    row = tuner.in_process(asked, precisions.PrecisionChoice("bfloat16")).measured
    assert (row.precision, row.trouble) == ("bfloat16", "its process was killed")
    assert "its process was killed" in rows_of(row)[-1]


def test_vectors_that_went_astray_are_not_taken() -> None:
    exact = found("float32", rows(50, 1), rows(50, 2))
    near = tuner.compare_with_exact(exact, found("bfloat16", exact.pictures, exact.texts))
    assert (near.trouble, near.agreement) == (None, 1.0)
    far = tuner.compare_with_exact(exact, found("int8", rows(50, 3), exact.texts))
    assert far.trouble is not None and far.trouble.startswith("cosine")
    assert far.agreement is not None and far.agreement < 0.9


def test_what_cannot_be_compared_is_not_taken() -> None:
    exact = found("float32", rows(50, 1), rows(50, 2))
    too_large = replace(exact.measured, trouble="takes too much")
    large = candidate.CandidateVectors(too_large, exact.pictures, exact.texts)
    astray = tuner.compare_with_exact(large, found("int8", rows(50, 3), rows(50, 4)))
    assert astray.trouble is not None and astray.trouble.startswith("cosine")
    killed = candidate.CandidateVectors(replace(exact.measured, trouble="its process was killed"))
    row = tuner.compare_with_exact(killed, found("int8", rows(50, 3), rows(50, 4)))
    assert row.trouble == "nothing to compare with: float32 failed (its process was killed)"
    assert tuner.choose_fastest([killed.measured, row]) is None


def test_one_vector_astray_is_enough() -> None:
    exact = found("float32", rows(50, 1), rows(50, 2))
    texts = exact.texts.copy()
    texts[7] = -texts[7]
    row = tuner.compare_with_exact(exact, found("int8", exact.pictures, texts))
    assert row.cosine_min == pytest.approx(-1, abs=1e-3)


def test_agreement_counts_what_is_wrong_and_no_draws() -> None:
    # One query; 20 items, of which ten score 0.9, and others 0.9 - 1e-3 or 0.5.
    query = np.array([[1.0, 0.0]], np.float16)

    def corpus(scores: list[float]) -> Vectors:
        return unit(np.array([[s, np.sqrt(1 - s * s)] for s in scores], np.float32))

    exact = corpus([0.9] * 10 + [0.899] * 5 + [0.5] * 5)
    drawn = corpus([0.9] * 5 + [0.8] * 5 + [0.9] * 5 + [0.5] * 5)
    assert tuner.agreement(query, query, drawn, exact) == 1.0
    wrong = corpus([0.9] * 8 + [0.3] * 2 + [0.2] * 5 + [0.9] * 2 + [0.1] * 3)
    assert tuner.agreement(query, query, wrong, exact) == pytest.approx(0.8)


def test_the_fastest_that_passed_in_the_smallest_good_batch() -> None:
    slow = candidate.CandidateResult("float32", False, {8: 10, 16: 11}, {32: 100}, 1)
    fast = candidate.CandidateResult(
        "bfloat16", False, {8: 20, 16: 29.5, 32: 30}, {32: 90, 64: 200}, 1
    )
    wrong = candidate.CandidateResult("int8", False, {8: 90}, {32: 900}, 1, trouble="cosine")
    assert tuner.choose_fastest([slow, fast, wrong]) == precisions.PrecisionChoice(
        "bfloat16", 16, 64
    )
    little = candidate.CandidateResult("bfloat16", True, {16: 31}, {64: 200}, 1)
    assert tuner.choose_fastest([slow, fast, little]) == precisions.PrecisionChoice(
        "bfloat16", 16, 64
    )
    much = replace(little, pictures={16: 40.0})
    assert tuner.choose_fastest([slow, fast, much]) == precisions.PrecisionChoice(
        "bfloat16", 16, 64, compiled=True
    )


def test_what_has_one_precision_is_not_tuned() -> None:
    answer = CliRunner().invoke(doctor, ["--tune", "--model", "hash"])
    assert answer.exit_code == 2
    assert "--tune: hash has one precision; give a checkpoint with --model" in answer.output


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
@pytest.mark.long
@pytest.mark.timeout(300)
# torch's own compiler imports what torch has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method")
def test_compiled_full_batches_give_the_same_vectors(
    checkpoint: Path, samples: candidate.TuningSamples
) -> None:
    where = find_checkpoint(str(checkpoint))
    exact = huggingface.HuggingFaceEncoder(where)
    compiled = huggingface.HuggingFaceEncoder(
        where, precisions.PrecisionChoice(pictures=8, compiled=True)
    )
    seen = [exact.preprocess(picture) for picture in samples.pictures]
    ours, theirs = compiled.encode_images(seen), exact.encode_images(seen)
    assert probe.cosines(ours, theirs).min() > 0.9999
