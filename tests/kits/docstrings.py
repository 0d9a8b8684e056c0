"""The rules for docstrings and comments, and a list of what breaks them.

    python -m tests.kits.docstrings api index_store/search/scan.py

prints every violation below the given folders and files, with file and line.
"""

import ast
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PRODUCT = ("contracts", "index_store", "streams", "consumers", "api", "training", "tidelens")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A docstring that begins with one of these is a fragment, or a sentence turned round.
OPENERS = _words(
    "About Also And As At Because But By Else For From How If In Into Its Not Of On Onto Or "
    "Out Over Since So That Their Then Those To Until Unless Up What Whatever When Where "
    "Whether Which While Who Whoever Whose Why With Without"
)
# Verbs that an imperative may begin with: add the one that is missing to the file.
VERBS = frozenset(Path(__file__).with_name("verbs.txt").read_text().split())
# Third persons that are never the plural of a noun.
PREDICATES = _words(
    "Accepts Adds Allows Applies Becomes Begins Belongs Brings Carries Checks Chooses Closes "
    "Collects Compares Computes Connects Contains Converts Counts Creates Decides Decodes "
    "Deletes Describes Does Encodes Ends Exists Fetches Fills Finds Follows Forgets Gives "
    "Goes Has Hands Holds Ignores Is Joins Keeps Knows Lets Leaves Listens Loads Looks Makes "
    "Maps Means Measures Merges Nominates Opens Owns Parses Prints Publishes Puts Raises "
    "Reaches Reads Rebuilds Recomputes Refuses Removes Repairs Replaces Requires Restores "
    "Returns Rewrites Runs Says Searches Sees Selects Sends Serves Shows Speaks Starts Stores "
    "Takes Tells Translates Waits Watches Writes Yields"
)
FINITE = _words(
    "is are was were has have had does do did can cannot could may might must shall should "
    "will would needs goes comes becomes means stands belongs consists contains exists lies "
    "fails works counts costs lives stays"
)
# Words of the house, and the plain ones instead of them.
TICS = {
    r"\btold\b|\btells\b": "say, report, pass, know",
    r"\banew\b": "again, from the beginning, new",
    r"\b[Ww]hoever\b": "a caller that, a client that",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer|more\b|less\b|\w+er\b)": "is not a",
    r"(?<!there )\b(?:is|are|was|were) none\b": "is not one",
    r"\bto be had\b": "available",
    r"\bours\b": "name it: Tidelens's, this process's",
    r"\bso long\b(?! as)": "for that time, for N seconds",
    r"\bwhat for\b": "why",
    r"(?:^|[.;:,(]\s+)[Ee]lse\b": "otherwise, or else",
    r"\bkinds?\b": "type, format, index type, target",
    r"\berrands?\b": "encode task",
    r"(?<![\w.])\.\d": "write 0.95, not .95",
}
# The first clause of a sentence ends here: what follows may have a verb of its own.
_CLAUSE = re.compile(
    r"[,:;(]| (?:that|which|who|whose|where|when|while|if|unless|as|until|because|what) "
)
_CODE = re.compile(r"``.+?``|`[^`]*`")
_PRAGMA = re.compile(r"#!|#\s*(?:type:|noqa|pragma|mypy:|ruff:|fmt:)")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Violation(NamedTuple):
    """One broken rule, as `path:line: what is wrong`."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.message}"


def violations(path: Path) -> list[Violation]:
    """Return what breaks the rules in one file of Python, in the order of the lines."""
    tree = ast.parse(path.read_text())
    found = [*_missing(path, tree), *_docstrings(path, tree), *_comments(path)]
    return sorted(found, key=lambda violation: violation.line)


def python_files(*names: str) -> list[Path]:
    """Return the Python files below folders, or the files themselves; names are below the root."""
    paths = [ROOT / name for name in names]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))]
    return sorted(files)


def text_faults(text: str, *, function: bool) -> Iterator[str]:
    """Yield what is wrong with a docstring; that of a `function` is an imperative or a sentence."""
    first = text.split()[0].rstrip(",.:;")
    if first in OPENERS or text.startswith("The same"):
        yield f"begins with {first!r}: use the imperative, or a subject and a verb"
    elif first in PREDICATES:
        yield f"begins with {first!r}, a verb without a subject: use the imperative, or a subject"
    elif function and not _has_verb(text):
        yield "the first sentence has no verb: use the imperative, or a subject and a verb"
    if not re.match("[A-Z`]", text):
        yield "does not begin with a capital letter"
    last = text.splitlines()[-1]
    is_example = text.split("\n\n")[-1].startswith((">>>", " ", "|"))
    if not (last.endswith((".", "?", "!")) or is_example):
        yield "does not end with a full stop"
    yield from tics(text)


def tics(text: str) -> Iterator[str]:
    """Yield the words of the house in a text, each with what to write instead."""
    plain = _CODE.sub("`", text)
    for pattern, instead in TICS.items():
        for match in re.finditer(pattern, plain, re.M):
            yield f"{match[0].strip()!r}: {instead}"


def _has_verb(text: str) -> bool:
    sentence = re.split(r"(?<=\w)[.!?](?:\s|$)", _CODE.sub("X", text), maxsplit=1)[0]
    clause = _CLAUSE.split(" ".join(sentence.split()), maxsplit=1)[0]
    words = re.findall(r"[\w-]+", clause)
    if not words or words[0].lower() in VERBS:
        return bool(words)
    thirds = {verb + ending for verb in VERBS for ending in ("s", "es")}
    thirds |= {verb[:-1] + "ies" for verb in VERBS}
    return any(word.lower() in FINITE or word in thirds for word in words[1:])


def _missing(path: Path, tree: ast.Module) -> Iterator[Violation]:
    """Yield the modules, public classes and public functions of the product without a docstring."""
    if path.relative_to(ROOT).parts[0] not in PRODUCT:
        return
    public = [node for node in tree.body if isinstance(node, Documented) and _is_public(node)]
    for node in [tree, *public]:
        if ast.get_docstring(node) is None:
            name = getattr(node, "name", "the module")
            yield Violation(path, getattr(node, "lineno", 1), f"{name} has no docstring")


def _is_public(node: Documented) -> bool:
    return not getattr(node, "name", "").startswith("_")


def _docstrings(path: Path, tree: ast.Module) -> Iterator[Violation]:
    """Yield the faults of docstrings, and of strings that stand below an attribute."""
    for node in ast.walk(tree):
        if not isinstance(node, Documented):
            continue
        for position, statement in enumerate(node.body):
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            text = statement.value.value
            if not isinstance(text, str) or not text.strip():
                continue
            function = position == 0 and _is_method_or_function(node)
            for fault in text_faults(inspect.cleandoc(text), function=function):
                yield Violation(path, statement.lineno, fault)


def _is_method_or_function(node: ast.AST) -> bool:
    """Return whether a node is a function; properties are named like the values that they are."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    names = {getattr(decorator, "id", "") for decorator in node.decorator_list}
    return not names & {"property", "cached_property"}


def _comments(path: Path) -> Iterator[Violation]:
    """Yield the tics of comments; lines that follow each other are one text."""
    with path.open("rb") as file:
        tokens = [t for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT]
    for token in tokens:
        if not _PRAGMA.match(token.string):
            for fault in tics(token.string.lstrip("# ")):
                yield Violation(path, token.start[0], fault)


def main() -> None:
    """Print the violations below the folders and files that the command line names."""
    found = [v for path in python_files(*sys.argv[1:]) for v in violations(path)]
    print(*found, sep="\n")
    print(f"{len(found)} violations", file=sys.stderr)
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
