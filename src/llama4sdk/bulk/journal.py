"""The journal of bulk work: a file that knows which prompts were answered, and how.

It only grows, by one line for each finished prompt, written by one call. What a crash leaves of a last line is
cut off when the journal is opened again. Everything here blocks; call it in worker threads.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from llama4sdk.bulk.lock import lock
from llama4sdk.bulk.records import (
    HEAD,
    DamagedError,
    error_line,
    header_line,
    header_model,
    read_record,
    read_reply,
    reply_line,
)
from llama4sdk.errors import InvalidRequest, LlamaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4sdk.reply import Reply

_SYNC_EVERY = 1.0  # seconds: what a power cut may cost; a crash of the process alone costs nothing
_LOOK_UP_EVERY = 1000  # lines


class _Place(NamedTuple):
    rank: int  # of the prompt among the prompts
    offset: int  # of the line in the file


class Journal:
    """An open journal; made by `Journal.open`, closed by `close`, used by any thread.

    A prompt that stands n times among the prompts is asked n times, and its n replies are handed out once each.

    Args:
        path: Where it is.
        model: The model that answers; empty where it is not known yet.
    """

    def __init__(self, path: Path, model: str) -> None:
        self._path = path
        self._model = model
        self._held = ""  # the model that the file names
        self._unnamed = False  # whether it holds replies and names no model
        self._places: dict[bytes, list[_Place]] = {}
        self._guard = threading.Lock()
        self._synced = time.monotonic()
        self._broken: str | None = None  # why nothing more can be written
        self._size = 0
        # Replies may be private, so only the owner may read them.
        self._file = FileIO(path, "a+", opener=lambda name, flags: os.open(name, flags, 0o600))
        try:
            self._reader: BinaryIO = path.open("rb")
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str], model: str = "", *, check: Callable[[], None] = lambda: None) -> Self:
        """Open a journal, or begin one, and cut off what a crash left of its last line.

        Args:
            path: A file; only a new, an empty or a journal's own is taken.
            model: The model that will answer.
            check: Called now and then while a long journal is read; may raise to stop it.

        Raises:
            InvalidRequest: When the path cannot be used, is another kind of file, is another model's, has
                a damaged line, or is being written by someone else.
        """
        place = Path(path)
        try:
            # Looked at before it is opened, for opening a pipe would wait.
            if place.exists() and not stat.S_ISREG(place.stat().st_mode):
                raise InvalidRequest(f"The journal {str(path)!r} is no file; give the path of a file.")
            journal = cls(place, model)
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"The journal {str(path)!r} cannot be opened: {_reason(error)}.") from error
        try:
            journal._begin(check)
        except BaseException as error:
            journal._close_files()
            if isinstance(error, OSError):
                raise InvalidRequest(f"The journal {str(path)!r} cannot be read: {_reason(error)}.") from error
            raise
        return journal

    @property
    def awaits_model(self) -> bool:
        """Whether it holds the replies of a named model, and the name of the one that answers is not known."""
        return bool(self._held and not self._model)

    def name(self, model: str) -> None:
        """Note the name of the model that answers, where it was not known when the journal was opened.

        Raises:
            InvalidRequest: When the journal holds another model's replies, or those of a model without a name.
            LlamaError: When it cannot be written.
        """
        with self._guard:
            if model and model != self._model:
                self._check_model(model)
                self._model = model
                self._note_model()

    def take(self, key: str, index: int) -> Reply[Any] | None:
        """Return a reply to the prompt of that key and hand it out no more; None when there is none left.

        While the journal `awaits_model`, there is none.

        Raises:
            LlamaError: When it cannot be read.
        """
        with self._guard:
            if self.awaits_model:
                return None
            place = self._taken(bytes.fromhex(key), index)
            if place is None:
                return None
            try:
                self._reader.seek(place.offset)
                return read_reply(read_record(self._reader.readline()).reply or {})
            except (DamagedError, OSError) as error:
                raise LlamaError(f"A reply cannot be read from the journal {str(self._path)!r}.") from error

    def write(self, key: str, index: int, result: Reply[Any] | LlamaError) -> None:
        """Add what became of a prompt; a reply that JSON cannot hold is left out.

        Raises:
            LlamaError: When it cannot be written.
        """
        try:
            line = error_line(key, index, result) if isinstance(result, LlamaError) else reply_line(key, index, result)
        except (TypeError, ValueError, RecursionError):
            return  # a tool call's arguments that JSON cannot hold: such a prompt is asked again
        with self._guard:
            self._add(line)
            if time.monotonic() - self._synced >= _SYNC_EVERY:
                self._sync()

    def close(self) -> None:
        """Bring everything to the disk and let go of the file; may be called twice."""
        with self._guard:
            try:
                if not self._file.closed and not self._broken:
                    self._sync()
            finally:
                self._close_files()

    def _begin(self, check: Callable[[], None]) -> None:
        if not lock(self._file):
            raise InvalidRequest(
                f"Someone else writes the journal {str(self._path)!r} now; wait for them, or give another path."
            )
        self._read_all(check)
        if self._size < self._file.seek(0, os.SEEK_END):
            self._file.truncate(self._size)
        if not self._size:
            self._add(header_line(self._model))
            self._held = self._model
            self._sync()
        self._check_model(self._model)
        self._note_model()

    def _check_model(self, model: str) -> None:
        if not model or self._held == model:
            return
        if self._held:
            raise InvalidRequest(
                f"The journal {str(self._path)!r} holds replies of the model {self._held!r}, not {model!r}; "
                "give another path."
            )
        if self._unnamed:
            raise InvalidRequest(
                f"The journal {str(self._path)!r} holds replies of a model without a name, and {model!r} answers now; "
                "give another path."
            )

    def _note_model(self) -> None:
        if self._model and not self._held:
            self._add(header_line(self._model))
            self._held = self._model

    def _read_all(self, check: Callable[[], None]) -> None:
        for number, line in enumerate(self._reader, 1):
            if number == 1:
                self._check_head(line)
            if not line.endswith(b"\n"):
                return
            if number > 1:
                self._read(line, number)
            self._size += len(line)
            if number % _LOOK_UP_EVERY == 0:
                check()

    def _check_head(self, line: bytes) -> None:
        try:
            model = header_model(line)
        except DamagedError:
            if not line.endswith(b"\n") and line[: len(HEAD)] == HEAD[: len(line)]:
                return  # the crash came while the journal was begun
            raise InvalidRequest(
                f"{str(self._path)!r} is not a journal of this version's bulk work; give the path of a new file."
            ) from None
        self._held = model
        self._check_model(self._model)

    def _read(self, line: bytes, number: int) -> None:
        try:
            if line.startswith(HEAD):  # the model's name, known after the journal was begun
                self._held = header_model(line)
                self._unnamed = False
                return
            record = read_record(line)
        except DamagedError:
            raise InvalidRequest(
                f"Line {number} of the journal {str(self._path)!r} is damaged; delete that line, and its prompt is "
                "asked again."
            ) from None
        if record.reply is not None:
            self._unnamed = self._unnamed or not self._held
            self._places.setdefault(bytes.fromhex(record.key), []).append(_Place(record.index, self._size))

    def _taken(self, key: bytes, index: int) -> _Place | None:
        places = self._places.get(key)
        if not places:
            return None
        # The one that stood at the same place first, so that equal prompts keep their replies.
        taken = next((place for place in places if place.rank == index), places[0])
        places.remove(taken)
        if not places:
            del self._places[key]
        return taken

    def _add(self, line: bytes) -> None:
        if self._broken:
            raise LlamaError(self._broken)
        try:
            self._append(line)
        except OSError as error:
            self._broken = (
                f"The journal {str(self._path)!r} cannot be written: {_reason(error)}. Mend that and run the work "
                "again: what it holds is not asked again."
            )
            with suppress(OSError):
                self._file.truncate(self._size)
            raise LlamaError(self._broken) from error
        self._size += len(line)

    def _append(self, line: bytes) -> None:
        written = 0
        while written < len(line):  # once, unless the disk is full
            written += self._file.write(line[written:]) or 0

    def _sync(self) -> None:
        with suppress(OSError):  # not every file system can
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _close_files(self) -> None:
        self._reader.close()
        self._file.close()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "not a path"
