"""The architecture as a test: each room imports only the rooms that the design allows."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = ("contracts", "index_store", "streams", "consumers", "api", "training", "tidelens")
MAY_IMPORT = {
    "contracts": set(),
    "index_store": {"contracts"},
    "streams": {"contracts", "index_store"},
    "consumers": {"contracts"},
    "api": {"contracts", "index_store"},
    "training": {"contracts", "consumers"},
    "tidelens": set(ROOMS),
}
# Libraries that only some rooms may touch.
OWNERS = {
    "faiss": {"index_store"},
    # The matcher's products, on a GPU.
    "torch": {"consumers", "training", "index_store"},
    "transformers": {"consumers", "training"},
}
FILES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def imported(path: Path) -> set[str]:
    """Top-level names that the file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    names = imported(path)
    wrong = (names & set(ROOMS)) - MAY_IMPORT[room] - {room}
    assert not wrong, f"{room}/ may not import {sorted(wrong)}"
    foreign = {name for name in names & OWNERS.keys() if room not in OWNERS[name]}
    assert not foreign, f"{room}/ may not import {sorted(foreign)}"
    assert not names & {"tests", "benchmarks"}


def test_the_client_needs_only_contracts() -> None:
    assert imported(ROOT / "tidelens" / "client.py") & set(ROOMS) == {"contracts"}


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(p) for p in FILES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent
