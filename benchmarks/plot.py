"""Lines over time as an SVG file: enough for a benchmark, without a plotting library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 900, 320, 60, 40, 40
_COLOURS = ("#1f6fb4", "#c4513a", "#3a8f4a", "#8057a8")
_POINTS_MAX = 1500


@dataclass(frozen=True, slots=True)
class Series:
    """A named line of (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def plot(
    lines: Sequence[Series], marks: Mapping[str, float], *, title: str, bottom: float = 0.0
) -> str:
    """`marks` are names at places of x, `bottom` where y begins.

    Where points are dense, each pixel shows its highest.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = sorted(y for line in lines for _, y in line.points)
    right, top = max(xs, default=1.0) or 1.0, ys[-1] if ys else 1.0
    top = bottom + (top - bottom) * 1.05 or 1.0

    def at(x: float, y: float) -> str:
        across = _LEFT + x / right * (_WIDTH - _LEFT - 20)
        down = _TOP + (1 - (y - bottom) / (top - bottom)) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{title}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        height = bottom + share * (top - bottom)
        _, y = at(0, height).split(",")
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="5" y="{y}">{height:.3g}</text>')
        x, _ = at(share * right, bottom).split(",")
        parts.append(f'<text x="{x}" y="{_HEIGHT - 15}">{share * right:.3g}</text>')
    for name, place in marks.items():
        x, _ = at(place, bottom).split(",")
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#888" '
            f'stroke-dasharray="4"/><text x="{x}" y="{_TOP - 4}">{name}</text>'
        )
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        joined = " ".join(at(x, y) for x, y in _thinned(line.points))
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}"/>')
        parts.append(
            f'<text x="{_WIDTH - 250}" y="{20 + 15 * number}" fill="{colour}">{line.name}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    step = max(1, len(points) // _POINTS_MAX)
    return [
        max(points[start : start + step], key=lambda point: point[1])
        for start in range(0, len(points), step)
    ]
