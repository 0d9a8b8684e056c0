"""The rules of tests/kits/docstrings.py hold in all code."""

from pathlib import Path

import pytest

from tests.kits.docstrings import PRODUCT, ROOT, python_files, text_faults, tics, violations

# All code, but for the scripts that wrote the kept artefacts: they belong to the commits they name.
HELD = (
    *PRODUCT,
    "benchmarks",
    "scripts",
    *sorted(
        f"tests/{path.name}"
        for path in (ROOT / "tests").iterdir()
        if path.name != "artefacts" and (path.is_dir() or path.suffix == ".py")
    ),
)


@pytest.mark.parametrize("name", HELD)
def test_prose_is_plain(name: str) -> None:
    found = [violation for path in python_files(name) for violation in violations(path)]
    assert not found, "\n" + "\n".join(map(str, found))


def test_folders_exist() -> None:
    gone = [name for name in HELD if not (ROOT / name).exists()]
    assert not gone, "a folder has moved: change HELD"


@pytest.mark.parametrize(
    "text",
    [
        "Return a plan to merge every segment of the target, or None.",
        "Fail the alerts whose position belongs to an earlier log.",
        "Re-encode the records that `space` lacks.",
        "The broker waits for it.",
        "Nothing is written until the caller commits.",
        "`auto` is replaced by what the probe finds.",
    ],
)
def test_sentences_pass(text: str) -> None:
    assert list(text_faults(text, function=True)) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Of the rows, ascending.", "begins with 'Of'"),
        ("The same of wire hits.", "begins with 'The'"),
        ("How many are to be searched.", "begins with 'How'"),
        ("Raises NotReady.", "verb without a subject"),
        ("The bytes that `ref` names.", "has no verb"),
        ("(n, dim) float16, unit length.", "capital letter"),
        ("Return the rows", "full stop"),
        ("Build it anew.", "'anew'"),
        ("Keep a recall of .95 at least.", "0.95"),
    ],
)
def test_fragments_fail(text: str, fault: str) -> None:
    assert any(fault in found for found in text_faults(text, function=True))


@pytest.mark.parametrize("text", ["Return it; else None.", "There is no error: it is no leader."])
def test_tics_are_found_in_comments_too(text: str) -> None:
    assert list(tics(text))


def test_missing_docstrings_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.kits.docstrings.ROOT", tmp_path)
    path = tmp_path / "contracts" / "new.py"
    path.parent.mkdir()
    path.write_text('"""A module."""\n\n\nclass Bare:\n    x = 1\n\n\ndef _own() -> None: ...\n')
    assert [str(found) for found in violations(path)] == [
        "contracts/new.py:4: Bare has no docstring"
    ]
