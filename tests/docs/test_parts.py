"""Charts, diagram and tables of the documentation are those that their sources give, and can be read."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs_parts.bars import VARIANTS, Palette
from docs_parts.charts import charts
from docs_parts.gallery import gallery
from docs_parts.parts import CHARTS, DOCS, IMAGES, ROOT, parts
from docs_parts.replicas import replicas

RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *DOCS.glob("*.md")]
SHOWN = re.compile(r"!\[[^]]+\]\((?:docs/)?images/([^)#]+)(#gh-(light|dark)-mode-only)?\)")


def test_every_part_is_as_its_sources_give_it() -> None:
    changed = [str(path.relative_to(ROOT)) for path, text in parts().items() if path.read_text("utf-8") != text]
    assert not changed, "made from other files that have changed since; run: python -m docs_parts"
    assert {path.name for path in CHARTS.iterdir()} == {path.name for path in parts() if path.parent == CHARTS}


def test_a_changed_result_changes_its_chart(tmp_path: Path) -> None:
    results = Path(shutil.copytree(RESULTS, tmp_path / "results"))
    measured = json.loads((results / "local_cpu.json").read_text())
    measured["figures"]["transformers"]["alone"] *= 2
    (results / "local_cpu.json").write_text(json.dumps(measured))
    before, after = charts(RESULTS), charts(results)
    assert [name for name in before if before[name] != after[name]] == ["cpu"]


def test_the_table_of_replicas_follows_its_results(tmp_path: Path) -> None:
    measured = json.loads((RESULTS / "replicas.json").read_text())
    measured["figures"]["server"]["tokens_per_second"]["median"] = 1234.5
    measured["two_replicas_to_one"]["median"] = 1.875
    (tmp_path / "replicas.json").write_text(json.dumps(measured))
    page, text = (DOCS / "beyond-one-machine.md").read_text("utf-8"), replicas(tmp_path / "replicas.json")
    assert replicas(RESULTS / "replicas.json") in page
    assert "1,234.5" in text
    assert "give 1.875" in text


def test_the_gallery_holds_every_example_and_refuses_to_leave_one_out(tmp_path: Path) -> None:
    page = (DOCS / "examples.md").read_text("utf-8")
    examples = [path for path in (ROOT / "examples").iterdir() if path.is_file()]
    assert sorted(re.findall(r"^### (.*)$", page, re.MULTILINE)) == sorted(path.name for path in examples)
    folder = Path(
        shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    )
    (folder / "another.py").write_text('"""Another."""\n')
    with pytest.raises(ValueError, match=r"another\.py"):
        gallery(folder)


def test_every_image_is_shown_in_both_variants_and_is_there() -> None:
    shown = [(match[1], match[3]) for page in PAGES for match in SHOWN.finditer(page.read_text("utf-8"))]
    assert {path.relative_to(IMAGES).as_posix() for path in IMAGES.rglob("*.*")} == {name for name, _ in shown}
    for name, variant in shown:
        assert (variant is not None) == name.endswith(".svg")
        if variant is not None:
            assert name.endswith(f"-{variant}.svg")
            assert (name.replace(f"-{variant}.", "-light."), "light") in shown
            assert (name.replace(f"-{variant}.", "-dark."), "dark") in shown


@pytest.mark.parametrize("path", sorted(IMAGES.rglob("*.svg")), ids=lambda path: path.stem)
def test_a_drawing_stays_within_its_bounds_and_names_itself(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    width = float(root.attrib["width"])
    assert width <= 440
    assert root.findtext("{http://www.w3.org/2000/svg}title")
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        size = float(text.attrib.get("font-size", root.attrib["font-size"]))
        wide = 0.54 * size * len(text.text or "")  # DejaVu Sans, wider than most
        start = float(text.attrib["x"]) - {"middle": wide / 2, "end": wide}.get(text.attrib.get("text-anchor", ""), 0)
        assert start >= -1
        assert start + wide <= width + 1, text.text
    assert not re.search(r"(href|src)=|url\(|@import", path.read_text("utf-8"))


def luminance(color: str) -> float:
    """Return the relative luminance of a color as WCAG 2 defines it."""
    parts = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", VARIANTS.values(), ids=VARIANTS)
def test_colors_can_be_told_from_the_page(palette: Palette) -> None:
    page = luminance(palette.page)
    for color, least in ((palette.text, 7), (palette.faint, 4.5), *((each, 3) for each in palette.series)):
        low, high = sorted((page, luminance(color)))
        assert (high + 0.05) / (low + 0.05) >= least, color


def test_the_site_names_the_release_and_repository_of_the_package() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert site["extra"]["release"] == package["version"]
    assert site["repo_url"] == package["urls"]["Source"]
    assert {mode["scheme"] for mode in site["theme"]["palette"] if "scheme" in mode} == {"default", "slate"}


def test_every_page_has_a_place_in_the_navigation() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
    listed = [page for groups in site["nav"] for pages in groups.values() for each in pages for page in each.values()]
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))
