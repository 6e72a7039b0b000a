"""Paths as people write them on a terminal: quoted, escaped as a file manager drops them, with a tilde, as a URL."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from collections.abc import Iterator


def typed_file(written: str) -> Path | None:
    """Return the file that a text names, literally where there is one; None where there is none."""
    for form in _forms(written.strip()):
        with suppress(OSError, ValueError, RuntimeError):  # too long, a null byte, a user without a home
            path = Path(form).expanduser()
            if path.is_file():
                return path
    return None


def _forms(written: str) -> Iterator[str]:
    yield written
    with suppress(ValueError):  # a quotation mark without its second
        words = shlex.split(written)
        if len(words) == 1:
            yield words[0]
    yield written.strip("'\"")
    if written.startswith("file:"):
        yield url2pathname(urlsplit(written).path)
