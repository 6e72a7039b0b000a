"""The chat page: static files of this package, which ask no other host for anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

_FOLDER = Path(__file__).with_name("page")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def page_routes() -> Sequence[BaseRoute]:
    """Return the routes of the page, `/`, and of the files that it is made of."""
    return (
        Route("/", _page),
        Mount("/chat", StaticFiles(directory=_FOLDER)),
    )


async def _page(request: Request) -> Response:
    del request
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)
