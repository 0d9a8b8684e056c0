"""`tidelens lag`: the table, what is said beside it, and when `behind` is not known."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from contracts.ports.lag import Lag
from tidelens.cli import lag as command
from tidelens.cli.base.lag_measurement import LagReport

ENCODE = Lag("encode", "t.encode.s", "t.captions", 0, 5, 5, 0, 0.0, "s", members=2)
INDEX = Lag("index", "t.index.s.0.a", "t.embeddings.s.captions", 0, 9, 9, 0, 0.0, "s", members=1)
GONE = Lag("index", "t.index.s.0.b", "t.embeddings.s.captions", 0, 1, 9, 8, 39.6, "s", members=0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[LagReport]]:
    """The command finds the last one in the list."""
    found: list[LagReport] = []

    async def measure_lag(*_: object, **__: object) -> LagReport:
        return found[-1]

    monkeypatch.setattr(command, "_measured", measure_lag)
    monkeypatch.setenv("TIDELENS_BROKERS", "k:9092")
    monkeypatch.setenv("TIDELENS_DATA", str(tmp_path))
    yield found


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(command.lag, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout  # on stderr it says which collection that was


def test_a_stopped_replica_is_gone_and_not_in_behind(measured: list[LagReport]) -> None:
    measured.append(LagReport("s", [ENCODE, INDEX, GONE], 0.0))
    lines = shown().splitlines()
    members = {line.split()[0]: line.split()[-1] for line in lines[1:4]}
    assert members == {ENCODE.group: "2", INDEX.group: "1", GONE.group: "gone"}
    assert lines[4] == "behind: 0.0 s"
    assert lines[5:] == [
        "gone: t.index.s.0.b; start the node again, or `tidelens lag --forget t.index.s.0.b`"
    ]
    rows = orjson.loads(shown("--json"))["partitions"]
    assert [row["gone"] for row in rows] == [False, False, True]


def test_without_any_index_node_behind_is_not_known(measured: list[LagReport]) -> None:
    measured.append(LagReport("s", [ENCODE, GONE], None))
    assert "behind: unknown, no index node of space s runs" in shown()
    assert orjson.loads(shown("--json"))["behind_s"] is None


def test_nobody_who_encodes_is_no_retired_group(measured: list[LagReport]) -> None:
    alone = Lag("encode", "t.encode.s", "t.captions", 0, 0, 5, 5, 3.0, "s", members=0)
    measured.append(LagReport("s", [alone, INDEX], 3.0))
    output = shown()
    assert "nobody encodes space s: group t.encode.s has no members" in output
    assert "gone:" not in output
    assert "behind: 3.0 s" in output


def test_two_nodes_of_one_name_are_named(measured: list[LagReport]) -> None:
    measured.append(LagReport("s", [ENCODE, replace(INDEX, members=2)], 0.0))
    assert "shared: 2 nodes run as t.index.s.0.a" in shown()
    measured.append(LagReport("s", [ENCODE, INDEX], 0.0))
    assert "shared" not in shown(), "several encoders share a group"


def test_what_is_held_back_is_named_once_with_the_command(measured: list[LagReport]) -> None:
    held = [Lag("index", f"t.index.s.0.{n}", "t.e", 3, 5, 5, 0, 0.0, "s", 2, 61.0, 1) for n in "ab"]
    short = Lag("index", "t.index.s.0.a", "t.e", 4, 5, 5, 0, 0.0, "s", 2, 0.03, 1)
    measured.append(LagReport("s", [*held, short], 61.0))
    [line] = [line for line in shown().splitlines() if line.startswith("held back")]
    assert line.startswith("held back: t.e partition 3 from offset 5 on, for 61 s")
    assert "--bootstrap-server k:9092 describe-producers --topic t.e --partition 3`" in line


def test_there_are_never_more_lines_than_a_screen_has(measured: list[LagReport]) -> None:
    left = [f"t.index.old.0.{n}" for n in range(50)]
    measured.append(LagReport("s", [ENCODE, INDEX], 0.0, left))
    lines = [line for line in shown().splitlines() if "left over" in line]
    assert (len(lines), lines[0]) == (
        20,
        "left over from another space: t.index.old.0.0; `tidelens lag --forget t.index.old.0.0`",
    )
    assert shown().splitlines()[-1] == "and 30 more like this"
    assert orjson.loads(shown("--json"))["left_over"] == left
