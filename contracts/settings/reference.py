"""The page docs/settings.md: every setting, written from the code that enforces it.

`python -m contracts.settings.reference` writes the page; with `--check` it fails if the page is out
of date.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from contracts.settings.description import SettingDescription, settings_of
from contracts.settings.groups import GROUPS, Group
from contracts.settings.words import default_in_words, values_in_words

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

_INTRODUCTION = """\
# Settings

<!-- Written by `python -m contracts.settings.reference`; change contracts/settings/ instead. -->

Every setting is a variable of the environment. An option of a command with the same meaning, such
as `--model`, overrides it. Every command refuses a value outside its bounds, and a variable that
begins with `TIDELENS_` but is not a setting. `tidelens config` shows the basic settings with their
values and origins, `tidelens config --all` shows every setting, and `tidelens config NAME` explains
one; `--json` is for programs.

Each group names the commands that read it. A list is written as JSON, as in
`TIDELENS_LABELS='["cat", "dog"]'`.
"""
# These defaults depend on who reads them.
_DEFAULTS = {"TIDELENS_DATA": "`$XDG_DATA_HOME/tidelens`, or `~/.local/share/tidelens`"}


def page() -> str:
    """Return the page as it should stand in docs/."""
    sections = [f"- [{group.title}](#{_anchor(group.title)})" for group in GROUPS]
    parts = [_INTRODUCTION, "\n".join(sections), *map(_section, GROUPS)]
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def _section(group: Group) -> str:
    settings = settings_of(group)
    advanced = [setting for setting in settings if not setting.basic]
    lines = [f"## {group.title}", "", f"Read by {_commands(group)}.", ""]
    lines += _table([setting for setting in settings if setting.basic], "Basic")
    lines += _table(advanced, "Advanced")
    return "\n".join(lines)


def _table(settings: Sequence[SettingDescription], heading: str) -> Iterator[str]:
    if not settings:
        return
    yield from (f"| {heading} | Meaning | Values | Default |", "|---|---|---|---|")
    for setting in settings:
        default = _DEFAULTS.get(setting.name) or f"`{default_in_words(setting)}`"
        cells = (f"`{setting.name}`", setting.description, f"`{values_in_words(setting)}`", default)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _commands(group: Group) -> str:
    if "every command" in group.read_by:
        return "every command"
    return ", ".join(f"`{command}`" for command in group.read_by)


def _anchor(title: str) -> str:
    """Return the anchor that GitHub and mkdocs make of a heading."""
    kept = "".join(char for char in title.lower() if char.isalnum() or char in " -")
    return kept.replace(" ", "-")


def main() -> None:
    """Write the page, or check it."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
    elif not PAGE.is_file() or PAGE.read_text() != page():
        sys.exit(f"{PAGE} is out of date; run python -m contracts.settings.reference")


if __name__ == "__main__":
    main()
