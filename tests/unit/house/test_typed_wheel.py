"""The built wheel carries its types: a type checker judges a program that uses it."""

import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """\
import asyncio
import tidelens
from tidelens import Client

async def main() -> None:
    print(tidelens.__version__.split("."))
    async with Client("http://127.0.0.1:8080") as client:
        await client.search({"text": "a red bicycle"})
        async for update in client.watch({"text": "a red bicycle", "k": 5}):
            print(update.event, [hit["id"] for hit in update.hits], update.cursor)

asyncio.run(main())
"""
MISTAKES = """\
from tidelens import Client, Update, __version__

number: int = __version__

async def read(client: Client, update: Update) -> int:
    client.serach({})
    return update.cursor
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment that holds the wheel, and the packages of this one beside it."""
    folder = tmp_path_factory.mktemp("typed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    venv.create(folder / "venv", with_pip=False)
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    [wheel] = folder.glob("tidelens-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # An added path's own .pth files are not read, so the checkout itself stays out.
    (packages / "beside.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "venv" / "bin" / "python"


def errors(python: Path, folder: Path, programs: dict[str, str]) -> dict[str, list[str]]:
    """Return the codes of what mypy finds in each program, by name; it starts once for all."""
    for name, program in programs.items():
        (folder / name).write_text(program)
    arguments = ["--strict", "--no-error-summary", "--show-error-codes", "--config-file="]
    arguments += [f"--python-executable={python}", "--cache-dir", str(folder / "cache")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mypy", *arguments, *programs],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, list[str]] = {name: [] for name in programs}
    for line in done.stdout.splitlines():
        found[line.partition(":")[0]].append(line.rpartition("[")[2].rstrip("]"))
    return found


@pytest.mark.timeout(240)
def test_a_program_is_checked_against_the_types_of_the_wheel(python: Path, tmp_path: Path) -> None:
    assert errors(python, tmp_path, {"right.py": PROGRAM, "wrong.py": MISTAKES}) == {
        "right.py": [],
        "wrong.py": ["assignment", "attr-defined", "return-value"],
    }
