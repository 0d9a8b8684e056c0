"""Zero-shot classification: the arithmetic, the endpoint, the command."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from contracts.errors import ConfigurationError, RejectedRequest
from contracts.prompts import fill_templates
from contracts.score import unit
from contracts.testing.encoder import HashEncoder
from contracts.zero_shot import label_vectors, probabilities
from tests.kits.api_kit import Kit
from tidelens.cli.classify import classify

pytestmark = pytest.mark.anyio


def test_a_label_is_the_average_of_its_prompts() -> None:
    assert fill_templates(["cat", "x"], ["a {}.", "{}, {}"]) == [
        "a cat.",
        "cat, cat",
        "a x.",
        "x, x",
    ]
    one, other = unit([1.0, 0.0]), unit([0.0, 1.0])
    found = label_vectors(["a", "b"], [one, other, one, one])
    assert np.allclose(found, [[np.sqrt(0.5), np.sqrt(0.5)], [1, 0]])
    with pytest.raises(RejectedRequest, match=r"label 'b': .* cancel out") as refused:
        label_vectors(["a", "b"], [one, other, one, -one])
    assert (refused.value.field, refused.value.value) == ("labels", "b")


def test_probabilities_are_the_softmax_of_scaled_cosines() -> None:
    found = probabilities([0.3, 0.2, 0.1], 100)
    logits = np.exp([30, 20, 10])
    assert np.allclose(found, logits / logits.sum())
    assert sum(found) == pytest.approx(1)
    assert probabilities([1.0, -1.0], 10_000) == [1.0, 0.0]  # no overflow


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    kit = Kit(classify_prompts_max=12, query_batch_max=2)
    async with kit.http:
        yield kit


async def ask(kit: Kit, **asked: Any) -> Any:
    response = await kit.http.post("/v1/classify", json=asked)
    assert response.status_code == 200, response.text
    return response.json()


async def refusal(kit: Kit, **asked: Any) -> tuple[int, str, str]:
    response = await kit.http.post("/v1/classify", json=asked)
    problem = response.json()
    return response.status_code, problem["code"], problem["detail"]


async def test_the_likeliest_label_comes_first(kit: Kit) -> None:
    encoder = HashEncoder()
    labels, templates = ["red cat", "blue dog", "green frog"], ["{}", "a photo of a {}."]
    answer = await ask(kit, text="blue dog", labels=labels, templates=templates)
    query = encoder.encode_texts(["blue dog"])[0].astype(np.float64)
    expected = []
    for label in labels:
        rows = encoder.encode_texts(fill_templates([label], templates)).astype(np.float64)
        mean = rows.mean(axis=0)
        expected.append(float(mean / np.linalg.norm(mean) @ query))
    likely = probabilities(expected, encoder.logit_scale)
    order = np.argsort([-score for score in expected])
    assert [one["label"] for one in answer["labels"]] == [labels[n] for n in order]
    assert answer["labels"][0]["label"] == "blue dog"
    for one, number in zip(answer["labels"], order, strict=True):
        assert one["score"] == pytest.approx(expected[number], abs=1e-9)
        assert one["probability"] == pytest.approx(likely[number], abs=1e-9)
    assert (answer["space"], answer["logit_scale"]) == ("hash-v1", encoder.logit_scale)


async def test_k_labels_are_answered_of_probabilities_over_all(kit: Kit) -> None:
    labels = [f"thing {n}" for n in range(8)]
    all_ = await ask(kit, text="thing 3", labels=labels, k=100)
    two = await ask(kit, text="thing 3", labels=labels, k=2)
    assert two["labels"] == all_["labels"][:2]
    assert sum(one["probability"] for one in all_["labels"]) == pytest.approx(1)
    assert len((await ask(kit, text="thing 3", labels=labels))["labels"]) == 5


async def test_pictures_vectors_and_items_are_classified_too(kit: Kit) -> None:
    kit.caption("a", "red cat")
    labels = ["red cat", "blue dog"]
    for asked in (
        {"id": "a", "of": "captions"},
        {"vector": HashEncoder().encode_texts(["red cat"])[0].tolist()},
    ):
        answer = await ask(kit, labels=labels, templates=["{}"], **asked)
        assert answer["labels"][0]["label"] == "red cat"
        assert answer["labels"][0]["score"] == pytest.approx(1, abs=1e-3)
    picture = base64.b64encode(b"\x80").decode()
    assert len((await ask(kit, image=picture, labels=labels))["labels"]) == 2


async def test_prompts_are_encoded_a_batch_at_a_time_and_like_any_query(kit: Kit) -> None:
    await ask(kit, text="x", labels=["a", "b", "c"], templates=["{}", "the {}"])
    assert kit.queries.texts == ["x", "a", "the a", "b", "the b", "c", "the c"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"text": "x"}, "labels: Field required"),
        ({"text": "x", "labels": []}, "labels: "),
        ({"labels": ["a"]}, "exactly one of text, image, vector and id is needed, got none"),
        ({"text": "x", "vector": [1.0], "labels": ["a"]}, "got text, vector"),
        ({"text": "x", "labels": ["a", "b", "a"]}, "labels: 'a' is given twice"),
        (
            {"text": "x", "labels": ["a"], "templates": ["a cat"]},
            "templates.0: want {} in the template, got 'a cat'",
        ),
        ({"text": "x", "labels": ["a"], "templates": []}, "templates: "),
        ({"text": "x", "labels": [""]}, "labels.0: "),
        ({"text": "x", "labels": ["a"], "k": 0}, "k: "),
        ({"text": "x", "labels": ["a"], "kk": 1}, "kk: "),
        ({"id": "a", "labels": ["a"]}, "of: `id` needs it"),
    ],
)
async def test_what_cannot_be_asked(kit: Kit, asked: dict[str, Any], says: str) -> None:
    status, code, message = await refusal(kit, **asked)
    assert (status, code) == (400, "invalid_request")
    assert says in message


async def test_too_many_prompts_name_limit_and_value(kit: Kit) -> None:
    labels = [f"l{n}" for n in range(13)]
    assert await refusal(kit, text="x", labels=labels) == (
        413,
        "too_many",
        "labels times templates: limit 12, got 13",
    )


async def test_an_item_that_is_not_there(kit: Kit) -> None:
    status, code, _ = await refusal(kit, id="nobody", of="images", labels=["a"])
    assert (status, code) == (404, "item_not_found")


def test_the_command_refuses_what_cannot_be_before_it_asks(tmp_path: Path) -> None:
    def failure(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(classify, [*arguments, "--url", "http://127.0.0.1:1"]).exception

    assert "labels" in str(failure("a text"))
    assert isinstance(failure("a text"), RejectedRequest)
    listed = tmp_path / "labels"
    listed.write_bytes(b"\xff")
    assert isinstance(failure("a text", "--labels", str(listed)), ConfigurationError)
    listed.write_text("cat\n\n dog \ncat\n")
    assert "'cat' is given twice" in str(failure("a text", "--labels", str(listed)))


def test_a_file_of_labels_is_one_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def answer(self: object, asked: Any) -> Any:
        seen.append(asked)
        return {"labels": [{"label": "dog", "probability": 0.75, "score": 0.5}]}

    monkeypatch.setattr("tidelens.client.Client.classify", answer)
    listed = tmp_path / "labels"
    listed.write_text("cat\n\n dog \n")
    arguments = ["--id", "x", "--labels", str(listed), "--label", "cow", "--template", "a {}"]
    done = CliRunner().invoke(classify, [*arguments, "--url", "http://127.0.0.1:1"])
    assert done.output == " 75.00%  0.5000  dog\n"
    assert seen == [
        {"id": "x", "of": "images", "labels": ["cow", "cat", "dog"], "templates": ["a {}"]}
    ]
    as_json = CliRunner().invoke(classify, [*arguments, "--json", "--url", "http://127.0.0.1:1"])
    assert orjson.loads(as_json.output)["labels"][0]["label"] == "dog"
