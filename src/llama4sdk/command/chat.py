"""`llama4 chat`: a dialog on the terminal, or one line of input for each question."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from llama4sdk.command.terminal import harmless, in_words, typed_line
from llama4sdk.command.typed_paths import typed_file
from llama4sdk.errors import InvalidRequest, LlamaError
from llama4sdk.images import load
from llama4sdk.messages import Image, Message, SystemMessage, UserMessage
from llama4sdk.sync import Llama4

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.backend import Backend
    from llama4sdk.guards import Guard

_HELP = "/image FILE   /system TEXT   /save FILE   /new   /quit; Ctrl-C stops an answer, Ctrl-D ends"
_INTERRUPTED = 130  # exit status, as shells give it to what Ctrl-C ended


def chat_with(
    name: str | Backend,
    options: dict[str, Any],
    *,
    images: Sequence[Path] = (),
    system: str = "",
    prompt: str = "",
    guards: Sequence[Guard] | Literal["auto"] | None = None,
) -> int:
    """Hold a dialog and return the exit status.

    Args:
        name: The backend.
        options: Its options.
        images: Images of the first message.
        system: The system message.
        prompt: The only question; without it, questions are read from the input.
        guards: Guards around every turn; a blocked one is no part of the dialog.

    Raises:
        InvalidRequest: An image of the first message cannot be read.
    """
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    first = [_image(str(path)) for path in images]
    with Llama4(name, guards=guards, **options) as llama:
        dialog = Dialog(llama, console, system, first)
        if prompt:
            return 0 if dialog.ask(prompt) else 1
        if _on_terminal():
            dialog.note(f"{llama.capabilities.model or llama.capabilities.name}   {_HELP}")
        try:
            while (line := _line(console, dialog)) is not None:
                if line.strip() and not dialog.take(line.strip()):
                    break
        except KeyboardInterrupt:
            return _INTERRUPTED
    return 1 if dialog.failed and not _on_terminal() else 0


def _on_terminal() -> bool:
    """Return whether questions are typed; there is no standard input where it was closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def _image(written: str) -> Image:
    """Return the image in a file.

    Raises:
        InvalidRequest: There is no such file, or it holds no image.
    """
    path = typed_file(written)
    if path is None:
        raise InvalidRequest(f"There is no file {written}.")
    image = Image(path)
    load(image)
    return image


def _line(console: Console, dialog: Dialog) -> str | None:
    """Return the next line of the input, None at its end.

    Raises:
        KeyboardInterrupt: The second Ctrl-C with nothing between: one that stopped an answer counts as the first.
    """
    while sys.stdin is not None:
        try:
            line = typed_line("you   " if _on_terminal() else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            console.print()
            if dialog.interrupted:
                raise
            dialog.interrupted = True
            console.print("Ctrl-C again, or Ctrl-D, ends.", style="dim")
            continue
        dialog.interrupted = False
        return line
    return None


class Dialog:
    """A dialog: what was said, and the images for the next question.

    Args:
        llama: The client.
        console: Where answers are written.
        system: The system message; empty for none.
        images: Images for the first question.
    """

    def __init__(self, llama: Llama4, console: Console, system: str = "", images: Sequence[Image] = ()) -> None:
        self._llama = llama
        self._console = console
        self._system = system
        self._said: list[Message] = []
        self._images = list(images)
        self.failed = False
        """Whether a question was not answered."""
        self.interrupted = False
        """Whether Ctrl-C was the last thing that happened."""

    def take(self, line: str) -> bool:
        """Carry out a line of input; return False where it ends the dialog."""
        word, _, rest = line.partition(" ")
        match word:
            case "/quit" | "/exit":
                return False
            case "/image" if rest:
                self._add_image(rest)
            case "/system":
                self._system, self._said = rest.strip(), []
            case "/new":
                self._said, self._images = [], []
            case "/save" if rest:
                self._save(rest.strip())
            case _ if word.startswith("/"):
                self.note(_HELP)
            case _:
                self.ask(line)
        return True

    def _add_image(self, written: str) -> None:
        """Put an image before the next question."""
        try:
            self._images.append(_image(written.strip()))
        except InvalidRequest as error:
            self.note(str(error), "red")

    def ask(self, question: str) -> bool:
        """Ask and write the answer as it comes; return whether it came. Ctrl-C stops it."""
        try:
            message = UserMessage([*self._images, question] if self._images else question)
            system = [SystemMessage(self._system)] if self._system else []
            with self._llama.stream([*system, *self._said, message]) as stream:
                try:
                    for text in stream.text():
                        self._write(text)
                except KeyboardInterrupt:
                    self.interrupted = True
                    stream.cancel()
                reply = stream.snapshot
        except KeyboardInterrupt:
            self.interrupted = True
            return False
        except LlamaError as error:
            self.failed = True
            self.note(f"\n{type(error).__name__}: {in_words(error)}", "red")
            return False
        self._console.print()
        self._images = []
        if reply.text:
            self._said += [message, reply.message]
        if _on_terminal() and reply.timing and reply.timing.tokens_per_second:
            speed = f"{reply.timing.first_token or 0:.2f} s to the first, {reply.timing.tokens_per_second:.0f} tokens/s"
            self.note(f"{reply.usage.completion_tokens} tokens, {speed}, {reply.finish_reason or 'stopped'}")
        return True

    def _save(self, written: str) -> None:
        dialog = [{"role": message.role, "content": message.text} for message in self._said]
        try:
            path = Path(written).expanduser()
            path.write_text(json.dumps(dialog, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except (OSError, ValueError, RuntimeError) as error:  # a null byte, a user without a home
            self.note(f"It could not be saved: {getattr(error, 'strerror', None) or error}.", "red")

    def _write(self, text: str) -> None:
        """Write a piece of an answer: as it came, but on a terminal without control over it."""
        self._console.file.write(harmless(text) if self._console.is_terminal else text)
        self._console.file.flush()

    def note(self, text: str, style: str = "dim") -> None:
        """Write something about the dialog."""
        with suppress(BrokenPipeError):
            self._console.print(harmless(text), style=style, markup=False)
