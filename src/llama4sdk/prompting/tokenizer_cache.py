"""Engines that took seconds to build, kept in the user's cache folder.

A cache may fail in any way without harm: what cannot be read, or was changed, is built again; what cannot
be written is not written.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION = 1  # changes when the same file must give another engine
_DIGEST = 64  # hexadecimal digits of a SHA-256


def cache_folder(environ: Mapping[str, str] | None = None, platform: str | None = None) -> Path | None:
    """Return the folder for this user's cached tokenizers, or `None` where there is none."""
    environ = os.environ if environ is None else environ
    platform = sys.platform if platform is None else platform
    chosen = environ.get("XDG_CACHE_HOME", "")
    if Path(chosen).is_absolute():
        base = Path(chosen)
    else:
        try:
            base = _platform_base(environ, platform, Path.home())
        except RuntimeError:  # no home folder can be determined
            return None
    return base / "llama4sdk" / "tokenizers"


def _platform_base(environ: Mapping[str, str], platform: str, home: Path) -> Path:
    if platform == "darwin":
        return home / "Library" / "Caches"
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    return home / ".cache"


def load(folder: Path | None, fingerprint: str) -> str | None:
    """Return the cached engine of the file with this SHA-256, or `None`."""
    if folder is None:
        return None
    try:
        kept = _file(folder, fingerprint).read_bytes()
    except OSError:
        return None
    head, body = kept[: _DIGEST + 1], kept[_DIGEST + 1 :]
    return body.decode("utf-8") if head == _digest_line(body) else None


def store(folder: Path | None, fingerprint: str, engine: str) -> None:
    """Keep an engine for the next time; other processes see the whole file or none."""
    if folder is None:
        return
    body = engine.encode("utf-8")
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_digest_line(body) + body)
            Path(name).replace(_file(folder, fingerprint))
        finally:
            Path(name).unlink(missing_ok=True)


def _file(folder: Path, fingerprint: str) -> Path:
    return folder / f"{fingerprint}-v{_VERSION}.json"


def _digest_line(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode("ascii") + b"\n"
