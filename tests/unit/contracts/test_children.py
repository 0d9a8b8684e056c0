"""Child processes import our modules, whatever stands in the working directory."""

import re
import subprocess
from pathlib import Path

import pytest

from contracts.supervision.children import module_command

ROOT = Path(__file__).parents[3]
ROOMS = ("contracts", "index_store", "streams", "consumers", "api", "training", "tidelens")
SOURCES = {
    path: path.read_text()
    for room in (*ROOMS, "benchmarks", "tests")
    for path in sorted((ROOT / room).rglob("*.py"))
}
# The modules that the product starts, as its sources name them.
CHILDREN = {
    name
    for path, text in SOURCES.items()
    if path.relative_to(ROOT).parts[0] in ROOMS
    for name in re.findall(r'module_command\(\s*"([\w.]+)"', text)
}


def test_the_product_starts_children_of_these_rooms() -> None:
    rooms = {name.partition(".")[0] for name in CHILDREN}
    assert rooms == {"consumers", "index_store", "streams", "tidelens"}


def test_every_child_is_started_by_that_command() -> None:
    """The option -m, written out, would let the working directory hide our modules."""
    ours = re.compile(rf'"-m",\s*"(?:{"|".join((*ROOMS, "benchmarks", "tests"))})\b')
    assert not [path for path, text in SOURCES.items() if ours.search(text)]


@pytest.mark.parametrize("module", sorted(CHILDREN))
def test_a_folder_of_the_user_does_not_hide_ours(module: str, tmp_path: Path) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise SystemExit('the folder of the user')")
    # Each ends with an error, which says that it was imported.
    done = subprocess.run(
        module_command(module, "no-such-word"),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert done.stderr
    assert "the folder of the user" not in done.stderr
