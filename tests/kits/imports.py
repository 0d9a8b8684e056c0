"""The imports of the product as a graph: which module imports which, directly and in the end."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("contracts", "index_store", "streams", "consumers", "api", "training", "tidelens")
# The libraries whose users the table names: each is large, or talks to the outside.
PACKAGES = frozenset(
    [
        "PIL",
        "aiobotocore",
        "aiohttp",
        "aiokafka",
        "click",
        "faiss",
        "faust",
        "httpx",
        "starlette",
        "torch",
        "transformers",
        "uvicorn",
        "websockets",
    ]
)


def product_files() -> list[Path]:
    """Return every Python file of the product, in order."""
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def folder_of(path: Path) -> str:
    """Return the folder that the rules name: a room, or a subfolder of it such as `api/live`."""
    return "/".join(path.relative_to(ROOT).parent.parts[:2])


def file_of(module: str) -> Path | None:
    """Return the file of one of our modules or packages, or None for any other name."""
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if module.partition(".")[0] in ROOMS and candidate.is_file():
            return candidate
    return None


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the modules that a file imports, inside functions too, but not for types alone.

    A name that is imported from one of our packages counts as the module where it lives.
    """
    names = set()
    for node in _loaded(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                names.add(full if file_of(full) else module)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node):
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            names |= {text for text in texts if isinstance(text, str) and text}
    return frozenset(names)


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node that runs: the body of `if TYPE_CHECKING:` does not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _loaded(other)
            continue
        yield child
        yield from _loaded(child)


def chain(entry: str, package: str) -> list[str]:
    """Return the shortest chain of imports from a module to a package, or an empty list.

    A package of Tidelens that is named by `from a.b import c` runs `a/__init__.py` and
    `a/b/__init__.py` as well, so those are followed too.
    """
    came_from: dict[str, str] = {entry: ""}
    queue = [entry]
    for module in queue:
        path = file_of(module)
        if path is None:
            if module.partition(".")[0] == package:
                return list(reversed(list(_back(module, came_from))))
            continue
        for name in sorted(imported(path)):
            parts = name.split(".")
            above = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            new = [each for each in above if each not in came_from]
            came_from.update(dict.fromkeys(new, module))
            queue.extend(new)
    return []


def _back(module: str, came_from: dict[str, str]) -> Iterator[str]:
    while module:
        yield module
        module = came_from[module]


@dataclass(frozen=True)
class Row:
    """One row of the table of rooms in docs/ARCHITECTURE.md."""

    folder: str
    holds: str
    imports: str
    packages: str

    def __str__(self) -> str:
        return f"| {self.folder} | {self.holds} | {self.imports} | {self.packages} |"


def rows() -> list[Row]:
    """Return the table as the source has it: a row for each room and each of its subfolders.

    `imports` names the other rooms, and the subfolders of the same room (`.` is the room itself).
    """
    imports: dict[str, set[str]] = {}
    packages: dict[str, set[str]] = {}
    for path in product_files():
        folder = folder_of(path)
        room = folder.partition("/")[0]
        imports.setdefault(folder, set())
        packages.setdefault(folder, set())
        for name in imported(path):
            target = file_of(name)
            if target is None:
                packages[folder] |= {name.partition(".")[0]} & PACKAGES
            elif folder_of(target) != folder:
                other, _, inner = folder_of(target).partition("/")
                imports[folder].add((inner or ".") if other == room else f"{other}/")
    return [
        Row(
            f"{folder}/",
            _holds(ROOT / folder / "__init__.py"),
            ", ".join(sorted(imports[folder], key=lambda name: (name.endswith("/"), name))),
            ", ".join(sorted(packages[folder])),
        )
        for folder in sorted(imports)
    ]


def _holds(package: Path) -> str:
    text = ast.get_docstring(ast.parse(package.read_text())) or ""
    return text.partition("\n")[0].removesuffix(".")


def main() -> None:
    """Print the table, or with --write put it into docs/ARCHITECTURE.md."""
    table = "\n".join(map(str, rows()))
    if sys.argv[1:] != ["--write"]:
        print(table)
        return
    page = ROOT / "docs" / "ARCHITECTURE.md"
    head, start, rest = page.read_text().partition("<!-- rooms -->\n")
    titles = rest.splitlines()[:2]
    _, end, tail = rest.partition("\n<!-- end of rooms -->")
    page.write_text(head + start + "\n".join(titles) + "\n" + table + end + tail)


if __name__ == "__main__":
    main()
