"""How the memory of this machine is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.planning.host import available_memory

if TYPE_CHECKING:
    from pathlib import Path


def machine(root: Path, *, limit: str | None = None, used: int = 0, cached: int = 0) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 16000 kB\nMemFree: 100 kB\nMemAvailable:    8000 kB\n")
    if limit is not None:
        folder = root / "sys/fs/cgroup"
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")
    return root


def test_cached_files_count_as_free(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path)) == 8000 * 1024


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, limit="5000000", used=3_000_000, cached=500_000)) == 2_500_000


def test_a_container_without_a_limit_changes_nothing(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, limit="max", used=3_000_000)) == 8000 * 1024


def test_a_full_container_has_nothing_left(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, limit="1000", used=2000)) == 0


def test_without_linux_the_platform_is_asked(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > 0


def test_this_machine_has_memory() -> None:
    assert available_memory() > 2**20
