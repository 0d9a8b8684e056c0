"""Extras: which packages they bring, and what a command says where one is missing."""

import ast
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from contracts.supervision.children import module_command
from tidelens.__main__ import COMMANDS
from tidelens.process.extras import MODULES, NEEDS

ROOT = Path(__file__).parents[3]
ROOMS = {"contracts", "index_store", "streams", "consumers", "api", "training", "tidelens"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# A package that comes with the one that is asked for.
COMES_WITH = {"botocore": "aiobotocore", "pydantic-core": "pydantic"}
ALL = tuple(module for modules in MODULES.values() for module in modules)
MORE = sum(len(MODULES[extra]) for extra in ("kafka", "server", "encoder", "cpu")) - 3
KAFKA = ("--brokers", "127.0.0.1:9")
NO_BROKER = "no Kafka broker at 127.0.0.1:9"
NO_SERVER = "http://127.0.0.1:9"


def run_without(modules: tuple[str, ...], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        module_command("tests.kits.hidden_packages", ",".join(modules), *command),
        capture_output=True,
        text=True,
        timeout=60,
    )


def name_of(requirement: str) -> str:
    """Return the name of a package from what pyproject.toml asks for."""
    return requirement.partition("[")[0].partition(">")[0].partition("=")[0]


def packages_of(modules: set[str]) -> set[str]:
    """Return the packages that bring modules, by the names that are installed."""
    installed = metadata.packages_distributions()
    names = {installed[module][0].lower().replace("_", "-") for module in modules}
    return {COMES_WITH.get(name, name) for name in names}


def imported() -> set[str]:
    """Return the modules from outside that the product imports, inside functions too."""
    found = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - ROOMS - sys.stdlib_module_names


@pytest.mark.parametrize("extra", MODULES)
def test_pyproject_has_the_packages_of_an_extra(extra: str) -> None:
    asked = {name_of(one) for one in PROJECT["optional-dependencies"][extra]} - {"tidelens"}
    assert packages_of(set(MODULES[extra])) == asked


def test_every_import_is_of_the_base_or_of_an_extra() -> None:
    base = {name_of(one) for one in PROJECT["dependencies"]}
    assert packages_of(imported() - set(ALL)) <= base


def test_needs_are_of_commands_that_exist() -> None:
    assert NEEDS.keys() <= COMMANDS.keys()
    for needs in NEEDS.values():
        assert MODULES.keys() >= {*needs.always, *needs.usually}


@pytest.mark.parametrize(
    ("hidden", "command", "line"),
    [
        (
            ALL,
            ("up",),
            f"up needs packages that are not installed (aiokafka, cramjam, numpy and {MORE} more); "
            "pip install 'tidelens[encoder,cpu,starter,broker]'",
        ),
        (("faiss",), ("index",), "index needs faiss, which is not installed; "
            "pip install 'tidelens[cpu]'"),
        (
            ("aiokafka", "tqdm"),
            ("publish", "cats"),
            "publish needs aiokafka, tqdm, which are not installed; pip install 'tidelens[kafka]'",
        ),
        # Only the subcommand imports it.
        (
            ("faiss", "starlette"),
            ("snapshot", "list"),
            "snapshot needs faiss, which is not installed; pip install 'tidelens[cpu,server]'",
        ),
    ],
)  # fmt: skip
def test_a_command_says_which_extras_to_install(
    hidden: tuple[str, ...], command: tuple[str, ...], line: str
) -> None:
    done = run_without(hidden, *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tidelens: {line}\n"


@pytest.mark.parametrize(
    "command",
    [
        ("search", "red"),
        ("watch", "red"),
        ("classify", "red", "--label", "a", "--label", "b"),
        ("digest",),
    ],
    ids=lambda command: command[0],
)
def test_the_base_install_asks_a_server(command: tuple[str, ...]) -> None:
    done = run_without(ALL, *command, "--url", NO_SERVER)
    assert done.returncode == 2
    assert NO_SERVER in done.stderr


def test_the_base_install_shows_help_settings_and_a_diagnosis() -> None:
    assert run_without(ALL, "--help").returncode == 0
    assert run_without(ALL, "up", "--help").returncode == 0
    assert "TIDELENS_PORT" in run_without(ALL, "config").stdout
    table = run_without(ALL, "doctor").stdout
    assert "skipped  broker       the package aiokafka is not installed" in table


@pytest.mark.parametrize(
    "command",
    [
        ("publish", __file__),
        ("delete", "captions", "a"),
        ("lag",),
        ("topics", "describe"),
        ("control", "show"),
        ("dead-letters", "list"),
    ],
    ids=lambda command: command[0],
)
def test_the_extra_kafka_is_enough_to_reach_a_broker(command: tuple[str, ...]) -> None:
    others = tuple(module for module in ALL if module not in MODULES["kafka"])
    done = run_without(others, *command, *KAFKA)
    assert done.returncode == 2
    assert NO_BROKER in done.stderr
