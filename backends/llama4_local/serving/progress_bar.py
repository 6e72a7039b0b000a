"""A progress bar on the terminal while a checkpoint is quantized, which can take minutes; drawn by rich."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.progress import Progress

_REDRAW = 0.1  # seconds


@contextmanager
def packing_bar(name: str, *, enabled: bool | None) -> Generator[Callable[[int, int], None]]:
    """Yield a function that draws the bar from bytes done and in all; nothing is drawn before its first call.

    Args:
        name: Of the checkpoint.
        enabled: Whether to draw; None for a bar where stderr is a terminal and rich is installed.

    Raises:
        InvalidRequest: The bar is enabled, stderr is a terminal, and rich is not installed.
    """
    bar = _open(name, enabled)
    if bar is None:
        yield lambda done, total: None
        return
    try:
        yield bar.draw
    finally:
        bar.close()


def _open(name: str, enabled: bool | None) -> _Bar | None:
    # A windowed program has no stderr.
    if enabled is False or sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        return _Bar(name)
    except ImportError:
        if enabled is None:
            return None
        raise InvalidRequest("The bar needs rich. Install it with: pip install 'llama4sdk[local]'") from None


class _Bar:
    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        # No refresh thread: `draw` refreshes it.
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._progress.add_task(f"packing {name}", total=None)
        self._drawn: float | None = None

    def draw(self, done: int, total: int) -> None:
        """Show the progress, at most ten times a second."""
        now = time.monotonic()
        if self._drawn is None:
            self._progress.start()
        elif done < total and now - self._drawn < _REDRAW:
            return
        self._drawn = now
        self._progress.update(self._task, completed=done, total=total)
        self._progress.refresh()

    def close(self) -> None:
        """Stop drawing and restore the terminal."""
        if self._drawn is not None:
            self._progress.stop()
