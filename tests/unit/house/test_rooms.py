"""The architecture as a test: what each room imports, directly and in the end."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kits.imports import ROOMS, ROOT, chain, file_of, folder_of, imported, product_files, rows

MAY_IMPORT: dict[str, set[str]] = {
    "contracts": set(),
    "index_store": {"contracts"},
    "streams": {"contracts", "index_store"},
    "consumers": {"contracts"},
    "api": {"contracts", "index_store"},
    "training": {"contracts", "consumers"},
    "tidelens": set(ROOMS),
}
# Libraries that only some folders may touch.
OWNERS = {
    "faiss": {"index_store/ann", "index_store/merge", "index_store/search", "index_store/segment"},
    # index_store/search holds the matcher on a GPU, beside numpy's.
    "torch": {"consumers/models", "training/train", "index_store/search"},
    "transformers": {"consumers/models"},
    "faust": {"streams/kafka", "streams/maintainer"},
    "starlette": {
        "api",
        "api/endpoints",
        "api/http",
        "api/live",
        "tidelens/server",
        "tidelens/runtime",
    },
    "uvicorn": {"tidelens/server"},
}
# Modules, and the packages that no chain of imports may lead to, lazy ones included.
NEVER = {
    "tidelens": ("aiobotocore", "torch", "faiss", "aiokafka", "transformers", "numpy", "pydantic"),
    "tidelens.client": (
        "aiobotocore",
        "torch",
        "faiss",
        "aiokafka",
        "transformers",
        "numpy",
        "pydantic",
    ),
    "contracts.settings": ("aiobotocore", "aiokafka", "torch", "faiss", "transformers", "numpy"),
    "consumers.worker": ("faiss", "aiokafka", "starlette"),
    "tidelens.runtime.encode_role": ("faiss",),
    "index_store.index": ("aiokafka", "transformers", "starlette"),
    "api.app": ("aiokafka", "torch", "transformers"),
}


@pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    folder = folder_of(path)
    room = folder.partition("/")[0]
    names = {name.partition(".")[0] for name in imported(path)}
    wrong = (names & set(ROOMS)) - MAY_IMPORT[room] - {room}
    assert not wrong, f"{room}/ may not import {sorted(wrong)}"
    foreign = {name for name in names & OWNERS.keys() if folder not in OWNERS[name]}
    assert not foreign, f"{folder}/ may not import {sorted(foreign)}"
    assert not names & {"tests", "benchmarks"}


@pytest.mark.parametrize(("module", "package"), [(m, p) for m in NEVER for p in NEVER[m]])
def test_no_chain_of_imports_leads_there(module: str, package: str) -> None:
    assert file_of(module), f"{module} has moved"
    assert not chain(module, package)


def test_chains_are_found() -> None:
    """The test above can fail: these chains exist, through lazy imports too."""
    assert chain("tidelens.runtime.index_role", "faiss")[-1] == "faiss"
    assert chain("tidelens.runtime.encode_role", "torch")[-1] == "torch"


def test_an_index_node_loads_no_torch_by_itself() -> None:
    """Queries are encoded in a process of their own, and only a GPU's matcher needs torch."""
    program = "import sys; import tidelens.runtime.node; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    loaded = done.stdout.split()
    assert "faiss" in loaded
    assert not {"torch", "transformers"} & set(loaded)


def test_the_architecture_shows_the_rooms_as_they_are() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    shown = page.partition("<!-- rooms -->\n")[2].partition("\n<!-- end of rooms -->")[0]
    assert shown.splitlines()[2:] == [str(row) for row in rows()], (
        "an import is new or gone: judge it, then run python -m tests.kits.imports --write"
    )


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(p) for p in product_files() if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent


def test_no_file_is_longer_than_a_reader_likes() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in product_files()
        if (lines := len(path.read_text().splitlines())) > 350
    }
    assert not long, f"files over 350 lines; split them by noun: {long}"
