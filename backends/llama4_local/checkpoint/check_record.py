"""A note beside a sealed file, with the state in which its checksum matched.

Hashing the packed form of a large checkpoint takes most of a minute at every start. A file whose size, inode and times
are those of its last full check is not hashed again. A copy, a file that was written to or one that was put in its
place has another inode or another time of change, and is hashed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX = ".checked"
_PART = ".part"
_SETTLED = 2 * 10**9  # nanoseconds; a file system's clock may be coarse, and two changes within one tick look like one


def record_check(path: Path, kind: str, seen: os.stat_result) -> None:
    """Note that a file's checksum matched.

    Where the note cannot be written, the file is hashed at the next start too; so is a file that was changed within
    the last two seconds, whose next change its times might not show.

    Args:
        path: The file.
        kind: Kind and version of its content.
        seen: Its state before it was read.
    """
    if time.time_ns() - max(seen.st_mtime_ns, seen.st_ctime_ns) < _SETTLED:
        return
    note = path.with_name(path.name + _SUFFIX)
    part = note.with_name(f".{note.name}.{os.getpid()}{_PART}")
    with contextlib.suppress(OSError):
        if _state(path.stat()) != _state(seen):
            return
        try:
            part.write_text(json.dumps({"kind": kind, "state": _state(seen)}))
            part.replace(note)
        finally:
            part.unlink(missing_ok=True)


def was_checked(path: Path, kind: str) -> bool:
    """Return whether a file is in the state in which its checksum matched."""
    note = path.with_name(path.name + _SUFFIX)
    try:
        if note.is_symlink() or not note.is_file():  # opening a pipe would wait for ever
            return False
        return json.loads(note.read_bytes()) == {"kind": kind, "state": _state(path.stat())}
    except (OSError, ValueError, RecursionError):
        return False


def _state(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
