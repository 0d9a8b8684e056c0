"""The pages name files of the repository that exist."""

import re
from pathlib import Path

import pytest

from tests.kits.docstrings import PRODUCT, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = (*PRODUCT, "benchmarks", "deploy", "docs", "scripts", "tests")
NAMED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w/.-]*\w")
LINKED = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    missing = {name for name in NAMED.findall(text) if not (ROOT / name).exists()}
    missing |= {link for link in LINKED.findall(text) if not (page.parent / link).exists()}
    assert not missing
