"""A hub of one checkpoint on the loopback, with as much of its API as a download needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import unquote, urlsplit

NAME = "someone/small-llama-4"
COMMIT = "1234567890abcdef1234567890abcdef12345678"


@dataclass(slots=True)
class Hub:
    """What it serves, and what it was asked for.

    Args:
        folder: Its files.
        token: Who may read them; None for all.
        gated: Whether others are told to accept a licence.
        cut: Bytes after which the first answer with weights breaks off; 0 for never.
        damaged: Files whose last byte arrives as another one.
    """

    folder: Path
    token: str | None = None
    gated: bool = False
    cut: int = 0
    damaged: tuple[str, ...] = ()
    url: str = ""
    fetched: list[str] = field(default_factory=list[str])
    ranges: list[str] = field(default_factory=list[str])


@contextmanager
def serving(hub: Hub) -> Generator[Hub]:
    """Serve until the block ends."""
    own = type("Own", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), own)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub of its subclass."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._fail(403 if self.hub.gated else 401, "GatedRepo" if self.hub.gated else "RepoNotFound")
        elif NAME not in path:
            self._fail(404, "RepoNotFound")
        elif path.startswith("/api/models/"):
            self._describe(path)
        else:
            revision, _, name = path.partition("/resolve/")[2].partition("/")
            if revision in ("main", COMMIT):
                self._file(name, body=body)
            else:
                self._fail(404, "RevisionNotFound")

    def _describe(self, path: str) -> None:
        place = path.removeprefix(f"/api/models/{NAME}").strip("/").split("/")
        if len(place) > 1 and place[1] not in ("main", COMMIT):
            self._fail(404, "RevisionNotFound")
            return
        files = sorted(file for file in self.hub.folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(self.hub.folder)) for file in files]
        if place[0] == "tree":
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": digest(file)}
                for name, file in zip(names, files, strict=True)
            ]
            self._json(entries)
            return
        self._json(
            {"id": NAME, "sha": COMMIT, "private": False, "tags": [], "siblings": [{"rfilename": n} for n in names]}
        )

    def _file(self, name: str, *, body: bool) -> None:
        file = self.hub.folder / name
        if not file.is_file():
            self._fail(404, "EntryNotFound")
            return
        data, start = file.read_bytes(), 0
        if name in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if body:
            self.hub.fetched.append(name)
            wanted = self.headers.get("Range", "")
            if wanted:
                self.hub.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body and self.hub.cut and name.endswith(".safetensors"):
            self.wfile.write(data[start : start + self.hub.cut])
            self.hub.cut = 0
            self.close_connection = True
        elif body:
            self.wfile.write(data[start:])

    def _json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def digest(file: Path) -> str:
    """Return what stands for a file's content in its ETag: of large files SHA-256, of others Git's SHA-1 of a blob."""
    content = file.read_bytes()
    if file.suffix == ".safetensors":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
