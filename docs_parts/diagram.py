"""The diagram of the architecture as SVG, in a light and in a dark variant."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from docs_parts.bars import FONT, WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docs_parts.bars import Palette

_HIGH, _STEP, _MARGIN, _GAP = 30, 40, 16, 10


class Row(NamedTuple):
    """Boxes side by side, and whether their border is the accent's."""

    boxes: tuple[str, ...]
    accent: bool = False


_SDK = (
    Row(("Llama4", "Session", "sync", "server", "command")),
    Row(("Stream", "run", "map", "guards", "routing")),
    Row(("Backend, the seam",), accent=True),
    Row(("prompts", "images", "tools", "output")),
    Row(("messages", "request", "events", "reply", "errors")),
)
_BACKENDS = Row(("llama4_local", "llama4_http", "llama4_ray", "yours"))
_FRAME_TOP = 62
_FRAME_HIGH = 34 + _STEP * len(_SDK)
_BACKENDS_TOP = _FRAME_TOP + _FRAME_HIGH + 46


def architecture(palette: Palette) -> str:
    """Return the diagram: what an application imports, and the backends that import the seam."""
    height = _BACKENDS_TOP + _HIGH + 4
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="{FONT}" font-size="13" fill="{palette.text}">',
        "<title>An application imports llama4sdk; backends import its seam</title>",
        *_row(Row(("your application",)), 2, palette),
        *_arrow(34, 60, "imports", palette),
        _box(1, _FRAME_TOP, WIDTH - 2, _FRAME_HIGH, palette.faint, dashed=True),
        f'<text x="{_MARGIN}" y="{_FRAME_TOP + 21}" font-weight="600">llama4sdk</text>',
    ]
    for place, row in enumerate(_SDK):
        lines += _row(row, _FRAME_TOP + 30 + _STEP * place, palette)
    lines += _arrow(_BACKENDS_TOP - 4, _BACKENDS_TOP - 42, "import the seam", palette)
    return "\n".join((*lines, *_row(_BACKENDS, _BACKENDS_TOP, palette), "</svg>")) + "\n"


def _row(row: Row, top: float, palette: Palette) -> Iterator[str]:
    wide = (WIDTH - 2 * _MARGIN - _GAP * (len(row.boxes) - 1)) / len(row.boxes)
    for place, label in enumerate(row.boxes):
        left = _MARGIN + place * (wide + _GAP)
        yield _box(left, top, wide, _HIGH, palette.series[0] if row.accent else palette.faint)
        yield f'<text x="{left + wide / 2:.1f}" y="{top + 20}" text-anchor="middle">{escape(label)}</text>'


def _box(left: float, top: float, wide: float, high: float, color: str, *, dashed: bool = False) -> str:
    style = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<rect x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{high}" rx="4" fill="none" '
        f'stroke="{color}" stroke-width="1.5"{style}/>'
    )


def _arrow(start: float, end: float, label: str, palette: Palette) -> Iterator[str]:
    x, back = WIDTH / 2, 6 if end < start else -6
    yield f'<path d="M{x} {start}V{end}m-5 {back}l5 {-back}l5 {back}" fill="none" stroke="{palette.faint}"/>'
    yield f'<text x="{x + 12}" y="{(start + end) / 2 + 4}" fill="{palette.faint}">{escape(label)}</text>'
