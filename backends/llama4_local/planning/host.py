"""How much memory this machine can still give to this process."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_ROOT = Path("/")
_UNKNOWN = 4 * 2**30  # where the platform says nothing
_AVAILABLE = re.compile(r"^MemAvailable:\s+([0-9]+) kB$", re.MULTILINE)


def available_memory(root: Path = _ROOT) -> int:
    """Return the bytes that can be taken without swapping, files cached in memory counted as free.

    On Linux `MemAvailable` of /proc/meminfo, within the limit of the container (cgroup v2) where there is one;
    elsewhere what the platform says is free.

    Args:
        root: Where `proc` and `sys` lie.
    """
    rooms = [room for room in (_machine(root), _container(root)) if room is not None]
    return min(rooms) if rooms else _free_pages()


def _machine(root: Path) -> int | None:
    available = _AVAILABLE.search(_text(root / "proc/meminfo"))
    return int(available[1]) * 1024 if available else None


def _container(root: Path) -> int | None:
    folder = root / "sys/fs/cgroup"
    limit, used = (_text(folder / name).strip() for name in ("memory.max", "memory.current"))
    if not limit.isdecimal() or not used.isdecimal():  # "max" is no limit
        return None
    cached = re.search(r"^inactive_file ([0-9]+)$", _text(folder / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _free_pages() -> int:
    with contextlib.suppress(ValueError, OSError, AttributeError):  # not known on this platform
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _UNKNOWN


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
