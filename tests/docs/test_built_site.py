"""The built site: every link leads somewhere, and no page loads anything from another host."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from long_runs import only_long

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHOWN = ("", "performance/", "api/", "api-client/", "troubleshooting/", "weights/", "architecture/", "examples/")
long_only = only_long("builds the site")
_LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class Tags(HTMLParser):
    """The addresses of a page: loaded ones and links, and the names of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "canonical" not in (values.get("rel") or "") and (address := values.get(_LOADING.get(tag, ""))):
            self.loaded.append(address)
        if tag == "a" and (address := values.get("href")):
            self.links.append(address)
        self.ids |= {name for name in (values.get("id"), values.get("name")) if name}


@pytest.fixture(scope="module")
def site() -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Tags]:
    read: dict[Path, Tags] = {}
    for path in site.rglob("*.html"):
        read[path] = Tags()
        read[path].feed(path.read_text("utf-8"))
    assert len(read) > 25
    return read


def test_sources_name_no_other_host_and_no_diagram_that_a_script_draws() -> None:
    for page in DOCS.glob("*.md"):
        text = page.read_text("utf-8")
        assert not re.search(r"!\[[^]]*\]\(\s*(?:https?:)?//|<(?:img|script|link|iframe)\b", text), page
        assert "```mermaid" not in text, page


@long_only
def test_no_page_loads_anything_from_another_host(site: Path, pages: dict[Path, Tags]) -> None:
    for path, tags in pages.items():
        assert not [address for address in tags.loaded if urlsplit(address).netloc], path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", sheet.read_text("utf-8")), sheet


@long_only
def test_every_link_within_the_site_leads_to_a_part_of_it(site: Path, pages: dict[Path, Tags]) -> None:
    broken: list[str] = []
    for path, tags in pages.items():
        for link in tags.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@long_only
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; on Debian: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_asks_no_other_host_and_a_phone_need_not_scroll_sideways(address: str, scheme: str) -> None:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        page.on("request", lambda request: asked.append(request.url))
        for name in SHOWN:
            page.goto(address + name, wait_until="networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
            shown = page.locator("article img:visible")
            for place in range(shown.count()):
                variant = re.search(r"-(light|dark)\.svg", shown.nth(place).get_attribute("src") or "")
                assert variant is None or variant[1] == scheme, name
                assert shown.nth(place).evaluate("image => image.complete && image.naturalWidth > 0"), name
        browser.close()
    assert asked
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
