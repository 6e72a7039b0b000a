"""A progress bar on the terminal, drawn by rich where that is installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.progress import Progress

    from llama4sdk.bulk.outcome import Tally


def open_bar(progress: bool | None, total: int | None) -> ProgressBar | None:
    """Return a bar, not yet drawn; None where none is wanted, or where there is no terminal to draw it on.

    Imports rich, so call it in a worker thread.

    Args:
        progress: Whether one is wanted; None for one where it can be had.
        total: How many prompts there are, when known.

    Raises:
        InvalidRequest: When one is wanted and rich is not installed.
    """
    # Without a console, as in a windowed program, there is no stderr at all.
    if progress is False or sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        return ProgressBar(total)
    except ImportError:
        if progress is None:
            return None
        raise InvalidRequest(
            "The progress bar needs rich. Install it with: pip install 'llama4sdk[progress]'"
        ) from None


class ProgressBar:
    """A bar on stderr; every call may block, and is made in a worker thread, one at a time.

    Raises:
        ImportError: When rich is not installed.
    """

    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        # No thread of its own: it is drawn when we say so.
        self._progress: Progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=total, note="")
        self._begun = False

    def draw(self, tally: Tally) -> None:
        """Show how far the work is."""
        if not self._begun:
            self._begun = True
            self._progress.start()
        self._progress.update(self._task, completed=tally.done, note=note(tally))
        self._progress.refresh()

    def close(self, tally: Tally) -> None:
        """Show how far the work came, and leave the terminal as it was."""
        try:
            self.draw(tally)
        finally:
            self._progress.stop()


def note(tally: Tally) -> str:
    """Return what stands beside the bar."""
    notes = (
        f"{tally.usage.completion_tokens} tokens" if tally.usage.completion_tokens else "",
        f"{tally.resumed} from the journal" if tally.resumed else "",
        f"{tally.failed} failed" if tally.failed else "",
    )
    return ", ".join(filter(None, notes))
