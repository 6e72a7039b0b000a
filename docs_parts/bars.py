"""Bar charts as SVG, in a light and in a dark variant: 440 units wide, so that a phone shows text at 12 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WIDTH, LEFT, RIGHT = 440, 122, 92  # of the chart, of the labels beside bars, of the values behind them
BAR, STEP = 18, 26  # the height of a bar, and from one to the next
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colors of one variant; the page behind it shows through.

    Args:
        page: The page's background, which texts and bars are chosen for.
        text: Of titles, labels and values.
        faint: Of marks.
        series: Of bars, by their series.
    """

    page: str
    text: str
    faint: str
    series: tuple[str, ...]


VARIANTS = {
    "light": Palette("#ffffff", "#1f2328", "#5d6570", ("#2f5fd0", "#b4540a", "#0f766e")),
    "dark": Palette("#0b0c0f", "#e8eaed", "#a9b0bb", ("#7aa2ff", "#f0a35e", "#4fd1c5")),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Args:
        label: Beside it.
        value: Its length, in the unit of its group.
        text: The value as it is shown.
        series: Its color.
    """

    label: str
    value: float
    text: str
    series: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Bars on one scale, below a heading."""

    heading: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line through all groups, with words above it."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Groups of bars.

    Args:
        title: Read out by screen readers, as the description of the whole.
        groups: From the top down.
        most: The value at the right edge; None for each group's own largest.
        marks: Lines at values; for charts with one scale.
    """

    title: str
    groups: tuple[Group, ...]
    most: float | None = None
    marks: tuple[Mark, ...] = ()


def draw(chart: Chart, palette: Palette) -> str:
    """Return the chart as an SVG document."""
    top = 24 if chart.marks else 4
    height = top + sum(30 + STEP * len(group.bars) for group in chart.groups)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="{FONT}" font-size="14" fill="{palette.text}">',
        f"<title>{escape(chart.title)}</title>",
        *_marks(chart, palette, height),
        *_groups(chart, palette, top),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _marks(chart: Chart, palette: Palette, height: int) -> Iterator[str]:
    for mark in chart.marks:
        x = LEFT + _length(mark.value, chart.most or mark.value)
        yield f'<path d="M{x:.1f} 22V{height - 4}" stroke="{palette.faint}" stroke-dasharray="3 3"/>'
        yield f'<text x="{x:.1f}" y="15" font-size="13" text-anchor="middle">{escape(mark.label)}</text>'


def _groups(chart: Chart, palette: Palette, top: float) -> Iterator[str]:
    for group in chart.groups:
        most = chart.most or max(bar.value for bar in group.bars)
        yield f'<text x="0" y="{top + 18}" font-weight="600">{escape(group.heading)}</text>'
        yield from _bars(group.bars, palette, top + 28, most)
        top += 30 + STEP * len(group.bars)


def _bars(bars: Iterable[Bar], palette: Palette, top: float, most: float) -> Iterator[str]:
    for place, bar in enumerate(bars):
        y, length = top + STEP * place, _length(bar.value, most)
        yield f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>'
        color = palette.series[bar.series]
        yield f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{color}"/>'
        halo = f'stroke="{palette.page}" stroke-width="4" paint-order="stroke"'  # where a mark passes behind it
        yield f'<text x="{LEFT + length + 6:.1f}" y="{y + 14}" {halo}>{escape(bar.text)}</text>'


def _length(value: float, most: float) -> float:
    return max(1.5, (WIDTH - LEFT - RIGHT) * value / most)
