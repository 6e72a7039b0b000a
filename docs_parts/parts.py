"""Every file of the documentation that is made, or holds a part that is, with its text as it has to be."""

from __future__ import annotations

from pathlib import Path

from docs_parts import machines
from docs_parts.bars import VARIANTS, draw
from docs_parts.charts import charts
from docs_parts.diagram import architecture
from docs_parts.gallery import gallery
from docs_parts.replicas import replicas

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
CHARTS = IMAGES / "charts"


def parts() -> dict[Path, str]:
    """Return the text of each such file."""
    diagrams = {IMAGES / f"architecture-{name}.svg": architecture(palette) for name, palette in VARIANTS.items()}
    drawn = {
        CHARTS / f"{name}-{variant}.svg": draw(chart, palette)
        for name, chart in charts(ROOT / "benchmarks" / "results").items()
        for variant, palette in VARIANTS.items()
    }
    pages = {
        DOCS / "weights.md": _filled(DOCS / "weights.md", "machines", machines.table()),
        DOCS / "beyond-one-machine.md": _filled(
            DOCS / "beyond-one-machine.md", "replicas", replicas(ROOT / "benchmarks" / "results" / "replicas.json")
        ),
        DOCS / "examples.md": gallery(ROOT / "examples"),
    }
    return {**diagrams, **drawn, **pages}


def _filled(page: Path, name: str, text: str) -> str:
    """Return a page with a text between the comments that name it.

    Raises:
        ValueError: The page has no such comments.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not closed:
        raise ValueError(f"{page.name} needs the lines {begin.strip()} and {end.strip()}.")
    return f"{before}{begin}\n{text}\n{end}{after}"
