"""Text of strangers never acts on a terminal or forges a line, whichever command shows it."""

import ast
import asyncio
import importlib
import io
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import orjson
import pytest
import structlog
from click.testing import CliRunner

from contracts.errors import TidelensError
from contracts.events.control_record import ActiveSpace, CandidateSpace, SpaceRef
from contracts.events.dead_letter import Letter, LetterId
from contracts.events.record import RecordPosition
from contracts.ports.lag import Lag
from streams.registry.control_faults import IgnoredRecord
from streams.registry.control_topic import Control
from streams.registry.dead_letter_desk import LetterGroup, RetryResult
from tidelens.__main__ import COMMANDS, LazyGroup, main
from tidelens.cli.base.lag_measurement import LagReport
from tidelens.cli.base.terminal import say
from tidelens.cli.config import config
from tidelens.cli.doctor.finding import failed
from tidelens.client import Client, Update
from tidelens.process import logs

ROOT = Path(__file__).parents[3]
HOSTILE = "x\x1b[2J\x9b1A\n  1  0.9999  forged\r\u202eevil\u2066\u2028\u200b\x07y"
ACTIVE = set("\x1b\x9b\r\u202e\u2066\u2028\u200b\x07")
HIT = {
    "id": HOSTILE,
    "text": HOSTILE,
    "metadata": {"name": HOSTILE},
    "score": 0.5,
    "rank": 1,
    "item": None,
    "source": {"topic": "t", "partition": 0, "offset": 0},
}
POINT = {"used": True, "effort": 1, "depth": 1, "recall": 0.5, "ms": 0.5}
SEGMENT = {"target": HOSTILE, "rows": 1, "kind": HOSTILE, "points": [POINT]}
DIGEST = {"topic": HOSTILE, "partition": 0, "offset": 1, "digest": "d"}
REBUILT = [{"target": "images", "rows": 1, "kind": HOSTILE, "seconds": 0.1}]


async def get(self: Client, path: str, **_: Any) -> Any:
    return {"digests": [DIGEST], "segments": [SEGMENT]}


async def post(self: Client, path: str, *_: Any) -> Any:
    return {"rebuilt": REBUILT, "name": HOSTILE}


async def search(self: Client, *_: Any) -> Any:
    return {"hits": [HIT], "warnings": [{"message": HOSTILE}]}


async def classify(self: Client, *_: Any) -> Any:
    return {"labels": [{"label": HOSTILE, "score": 0.5, "probability": 1.0}]}


async def watch(self: Client, *_: Any, **__: Any) -> AsyncIterator[Update]:
    enter = {"change": "enter", "id": HOSTILE, "hit": HIT}
    leave = {"change": "leave", "id": HOSTILE}
    yield Update("reset", (), (), None, HOSTILE)
    yield Update("delta", (enter, leave), (HIT,), "cursor", None)
    yield Update("match", (), (HIT,), "cursor", None)


async def run_checks(*_: Any, **__: Any) -> Any:
    return [failed("broker", HOSTILE, fix=HOSTILE)]


async def measured(*_: Any, **__: Any) -> Any:
    lag = Lag("encode", HOSTILE, HOSTILE, 0, 0, 1, 1, 0.5, HOSTILE, 1, 60.0, 0)
    gone = replace(lag, role="index")
    return LagReport(HOSTILE, [lag, gone], 0.5, [HOSTILE])


async def has_encoder(*_: Any) -> bool:
    return False


async def described(*_: Any) -> Any:
    return {"refused": HOSTILE}


class Letters:
    """The port that `dead-letters` opens, with one letter."""

    async def all(self) -> Any:
        letter = Letter(
            id=LetterId(0, 1),
            written_ms=0,
            key=HOSTILE.encode(),
            value_bytes=1,
            reason=HOSTILE,
            message=HOSTILE,
            stage="encode",
            attempts=1,
            source=RecordPosition(HOSTILE, 0, 1),
            space=HOSTILE,
            digest=b"",
            truncated=None,
        )
        return [LetterGroup((letter,), None)]

    async def original(self, _: Any) -> Any:
        return SimpleNamespace(value=HOSTILE.encode(), headers=[(HOSTILE, HOSTILE.encode())])

    async def retry(self, _: Any) -> Any:
        [one] = await self.all()
        return [RetryResult(one, None, "gone")]

    async def control(self) -> Control:
        ref = SpaceRef(HOSTILE, HOSTILE, HOSTILE)
        refused = IgnoredRecord(HOSTILE, 0, 1, HOSTILE, HOSTILE, HOSTILE)
        return Control(ActiveSpace(ref, ref, 1.0), CandidateSpace(ref, 1.0), (refused,))

    async def list(self) -> list[str]:
        return [HOSTILE]

    async def pointed(self, names: Any) -> set[str]:
        return set(names)


@asynccontextmanager
async def opened(*_: Any, **__: Any) -> AsyncIterator[Any]:
    letters = Letters()
    letters.snapshots = letters.settings = letters  # type: ignore[attr-defined]
    yield letters


def read_letter(_: Any) -> Any:
    [one] = asyncio.run(Letters().all())
    return one.letter


REPLACED: dict[str, Any] = {
    "tidelens.client.Client.get": get,
    "tidelens.client.Client.post": post,
    "tidelens.client.Client.search": search,
    "tidelens.client.Client.classify": classify,
    "tidelens.client.Client.watch": watch,
    "tidelens.cli.doctor.examination.run_checks": run_checks,
    "tidelens.cli.lag._measured": measured,
    "tidelens.cli.base.open_collection.open_collection": opened,
    "tidelens.migration.status.has_encoder": has_encoder,
    "tidelens.runtime.run_file.model_of": lambda settings: "starter",
    "tidelens.cli.dead_letters._opened": opened,
    "tidelens.cli.snapshot._opened": opened,
    "tidelens.cli.snapshot._described": described,
    "contracts.events.dead_letter.read_letter": read_letter,
    "contracts.events.dead_letter.original_headers": lambda record: record.headers,
}
SHOWN = [
    ["search", "a"],
    ["watch", "a"],
    ["classify", "a", "--label", "b", "--label", "c"],
    ["digest"],
    ["rebuild"],
    ["space", "status"],
    ["lag"],
    ["doctor"],
    ["control", "show"],
    ["snapshot", "create"],
    ["snapshot", "list"],
    ["dead-letters", "list"],
    ["dead-letters", "show", "0:1"],
    ["dead-letters", "retry", "--all"],
    ["config"],
]


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything that a command may show HOSTILE."""
    for name, replacement in REPLACED.items():
        monkeypatch.setattr(name, replacement)
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)
    monkeypatch.setenv("TIDELENS_LABELS", orjson.dumps([HOSTILE]).decode())


def check(output: str, *, json: bool = False) -> None:
    # What is only hidden may stand in JSON, which is for programs.
    assert not (ACTIVE - ({"\u200b"} if json else set())) & set(output)
    assert not any(line.startswith("  1  0.9999") for line in output.splitlines())


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_no_command_lets_a_stranger_act_on_the_terminal(command: list[str]) -> None:
    group = LazyGroup()
    for options in ([], ["--json"]):
        result = CliRunner().invoke(group, [*command, *options])
        assert result.exit_code in (0, 1) and not isinstance(result.exception, Exception)
        shown = result.stdout
        check(shown + result.stderr, json=bool(options))
        if options and command[0] != "doctor" and command[1:] != ["retry", "--all"]:
            assert HOSTILE in strings(*map(orjson.loads, shown.split("\n")[:-1])), "exact"


def strings(*values: Any) -> str:
    """Return all texts in JSON values, one after another."""
    found = []
    for value in values:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            found += [*value, strings(*value.values())]
        elif isinstance(value, list):
            found.append(strings(*value))
    return "|".join(found)


def test_every_command_is_looked_at_or_shows_nothing_of_strangers() -> None:
    looked_at = {command[0] for command in SHOWN}
    # Some only log, some need files and are tested below, and some show names of Kafka.
    assert set(COMMANDS) - looked_at == {"up", "encode", "index", "publish", "delete", "topics"}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_refused_files_and_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    async def none(records: list[Any]) -> list[Any]:
        assert not records
        return []

    @asynccontextmanager
    async def nowhere(_: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(publish=none), SimpleNamespace(content=str)

    monkeypatch.setattr("tidelens.cli.publish.open_log", nowhere)
    monkeypatch.setattr("tidelens.cli.delete.open_log", nowhere)
    importlib.import_module("tqdm")  # reads a file, which no loop may do
    file = tmp_path / f"{HOSTILE}.txt"
    file.write_text("")
    for arguments in (["publish", str(file)], ["delete", "images", HOSTILE * 1000]):
        result = CliRunner().invoke(LazyGroup(), [*arguments, *options])
        assert result.exit_code == 1 and not isinstance(result.exception, Exception)
        check(result.stdout + result.stderr, json=bool(options))


@pytest.mark.parametrize(
    "error", [TidelensError(HOSTILE), OSError(2, HOSTILE, HOSTILE), click.UsageError(HOSTILE)]
)
def test_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(config, "callback", fail)
    monkeypatch.setattr(sys, "argv", ["tidelens", "config"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().err
    assert not ACTIVE & set(shown) and r"\x1b[2J" in shown


def test_what_click_says_of_wrong_arguments_keeps_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tidelens", "delete"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.splitlines()[2:] == [
        "",
        "Error: Missing argument '{images|captions}'. Choose from:",
        "        images,",
        "        captions",
    ]


def test_logs_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        logs.configure("human", "test")
        log = structlog.get_logger("a")
        log.warning(HOSTILE, item=HOSTILE, items=[HOSTILE], short="\x1b[2J")
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("failed")
        logging.getLogger("b").warning("%s", HOSTILE)
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    shown = stream.getvalue()
    check(shown)
    # Message and two values, the exception, and what came by the standard library.
    assert shown.count(r"x\x1b[2J") == 4 and r"'x\x1b[2J" in shown
    assert "\n      1  0.9999  forged" in shown, "a line of the exception stands to the right"


def test_a_stream_that_cannot_show_a_character_shows_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("caf\u00e9", "\ud800")
    assert raw.getvalue() == b"caf\\xe9\n\\ud800\n"


def test_nothing_is_printed_in_another_way() -> None:
    printers = set()
    for path in (ROOT / "tidelens").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTERS:
                printers.add(path.relative_to(ROOT).as_posix())
    assert printers == {"tidelens/cli/base/terminal.py"}


PRINTERS = {
    "print",
    "click.echo",
    "click.secho",
    "click.echo_via_pager",
    "sys.stdout.write",
    "sys.stderr.write",
    "sys.stdout.buffer.write",
}
