"""Every start of a task, a timer or a thread in the product, found in its source."""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("contracts", "index_store", "streams", "consumers", "api", "tidelens")

_STARTS = {
    *("create_task", "ensure_future", "start_soon", "run_coroutine_threadsafe"),
    *("call_later", "call_at", "Thread", "Timer"),
    # Faust's and mode's.
    *("timer", "crontab", "agent", "task", "add_future"),
}
_SUPERVISED = {"run_step", "until_done", "forever", "count_failures"}


@dataclass(frozen=True, slots=True)
class Found:
    """`where` counts what each function starts, by `path: function`; `names` are those under which
    the supervisor is called, by path."""

    where: Mapping[str, int]
    names: dict[str, frozenset[str]]


def found(root: Path = ROOT) -> Found:
    where: Counter[str] = Counter()
    names: dict[str, frozenset[str]] = {}
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            relative, tree = path.relative_to(root).as_posix(), ast.parse(path.read_text())
            where.update(f"{relative}: {function}" for function in _starting(tree))
            if supervised := frozenset(_supervised(tree)):
                names[relative] = supervised
    return Found(where, names)


def _starting(tree: ast.AST, within: tuple[str, ...] = ()) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        inner = within
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (*within, node.name)
            # A decorator that is a call, such as `@app.agent(letters)`, is found as a call below.
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Attribute) and decorator.attr in _STARTS:
                    yield ".".join(inner)
        elif isinstance(node, ast.Call) and _called(node.func) in _STARTS:
            yield ".".join(within)
        yield from _starting(node, inner)


def _supervised(tree: ast.AST) -> Iterator[str]:
    """The names in calls such as `side.run_step("lag", ...)` and `side.supervise({"lag": ...})`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, first = _called(node.func), node.args[0] if node.args else None
        if called in _SUPERVISED and isinstance(first, ast.Constant):
            yield str(first.value)
        elif called == "supervise" and isinstance(first, ast.Dict):
            yield from (str(key.value) for key in first.keys if isinstance(key, ast.Constant))


def _called(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        return _called(node.func)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
