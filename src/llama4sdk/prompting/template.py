"""Messages to token ids, as Meta's reference for Llama 4 does it (chat format of llama-models).

A turn is `<|header_start|>role<|header_end|>`, two line feeds, the content and `<|eot|>`; a turn that
calls tools and a tool's result end with `<|eom|>`. An image stands where it was put, as the tokens of its
tiles. Text never becomes a special token, whatever it looks like.
"""

from __future__ import annotations

import hashlib
import re
import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from llama4sdk.errors import InvalidRequest
from llama4sdk.image_limits import DEFAULT_LIMITS, ImageLimits
from llama4sdk.images import Tiles, patch_tokens, tile
from llama4sdk.messages import AssistantMessage, Image, Message, Prompt, ToolMessage, conversation
from llama4sdk.prompting.tool_format import ToolsPlace, tools_place, with_declarations, write_calls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llama4sdk.prompting.tokenizer import Tokenizer
    from llama4sdk.request import OutputSpec, ToolChoice, ToolSpec

BEGIN: Final = "<|begin_of_text|>"
HEADER_START: Final = "<|header_start|>"
HEADER_END: Final = "<|header_end|>"
END_OF_TURN: Final = "<|eot|>"
END_OF_MESSAGE: Final = "<|eom|>"
IMAGE_START: Final = "<|image_start|>"
IMAGE_END: Final = "<|image_end|>"
IMAGE: Final = "<|image|>"
PATCH: Final = "<|patch|>"
TILE_X: Final = "<|tile_x_separator|>"
TILE_Y: Final = "<|tile_y_separator|>"

# Unicode's tag block, and its bidirectional embeddings, overrides and isolates (UAX 9).
_UNSEEN: Final = {
    "nul": re.compile("\0"),
    "tag characters": re.compile("[\U000e0000-\U000e007f]"),
    "direction controls": re.compile("[\u202a-\u202e\u2066-\u2069]"),
}

PieceKind = Literal["text", "image", "template"]


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens a prompt takes, and for what.

    Args:
        text: The words of the messages, tool calls and declarations.
        images: The images, with their separators.
        template: Roles, headers and ends of turns.
    """

    text: int
    images: int
    template: int

    @property
    def total(self) -> int:
        """All of them: what `Usage.prompt_tokens` will say."""
        return self.text + self.images + self.template


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the model will read it.

    Args:
        token_ids: The ids.
        text: The same as text, special tokens by their names.
        tiles: The pixels of each image, in order.
        count: How many tokens stand for what.
        digest: SHA-256, in hex, over ids and pixels: equal prompts have equal digests.
        flags: What the text holds that a person would not see: `nul`, `tag characters` (a way to hide
            instructions), `direction controls`. It is rendered; refuse it where that matters.
    """

    token_ids: list[int]
    text: str
    tiles: tuple[Tiles, ...]
    count: TokenCount
    digest: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the prompt: its ids, its text, and what it stands for."""

    kind: PieceKind
    text: str
    ids: Sequence[int]


class PromptTemplate:
    """Renders conversations for one tokenizer.

    Texts that were encoded before are not encoded again: in a dialog that grows, only what is new is.
    May be used from several threads.

    Args:
        tokenizer: The model's tokenizer.
        tile: Side of a tile in pixels.
        max_tiles: Most tiles of an image, the global one aside.
        chat_template: A checkpoint's own Jinja template, to be used instead of the reference's form;
            rendered in Jinja's sandbox.
        tools_in: Where tools and answer forms are declared: `system`, or `user`, before the first user message.
        remember: How many characters of text to keep the ids of.
        image_limits: Bounds on the images of messages that bring none of their own.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tile: int = 336,
        max_tiles: int = 16,
        chat_template: str | None = None,
        tools_in: ToolsPlace = "system",
        remember: int = 4_000_000,
        image_limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        self.tokenizer = tokenizer
        self.tile = tile
        self.max_tiles = max_tiles
        self.chat_template = chat_template
        self.tools_in: ToolsPlace = tools_place(tools_in)
        self.image_limits = image_limits
        self._known = _EncodedTexts(remember)

    def render(
        self,
        messages: Prompt,
        tools: Sequence[ToolSpec] = (),
        *,
        tool_choice: ToolChoice = "auto",
        output: OutputSpec | None = None,
        tools_in: ToolsPlace | None = None,
        answer: bool = True,
    ) -> Rendered:
        """Return the prompt that ends with the header of the assistant's turn.

        Decodes images, so call it in a worker thread where the loop must not wait.

        Args:
            messages: A string, a message or a sequence of messages.
            tools: The tools to declare.
            tool_choice: Whether and which of them must be called.
            output: The form of the answer, when one is asked for.
            tools_in: Where the declarations go, if not where the template puts them.
            answer: Whether to end with the header of the assistant's turn.

        Raises:
            InvalidRequest: For messages that cannot be rendered.
            ImageError: For an image that cannot be read.
            UrlBlocked: For a remote image that may not be fetched.
        """
        dialog = conversation(messages)
        tiles = tuple(
            tile(image, tile=self.tile, max_tiles=self.max_tiles, limits=self.image_limits)
            for message in dialog
            for image in message.images
        )
        images = iter(tiles)
        if self.chat_template is None:
            place = self.tools_in if tools_in is None else tools_place(tools_in)
            declared = with_declarations(dialog, tools=tools, choice=tool_choice, output=output, place=place)
            pieces = [piece for message in declared for piece in self._turn(message, images)]
            pieces.insert(0, self._special(BEGIN))
            if answer:
                pieces += self._header("assistant")
        else:
            pieces = self._by_chat_template(self.chat_template, dialog, tools, images, answer=answer)
        return _rendered(pieces, tiles)

    def _turn(self, message: Message, images: Iterator[Tiles]) -> list[Piece]:
        calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
        role = "ipython" if isinstance(message, ToolMessage) else message.role
        pieces = self._header(role)
        for part in message.parts:
            pieces += self._image(next(images)) if isinstance(part, Image) else [self._text(part.text)]
        if calls:
            pieces.append(self._text(write_calls(calls)))
        ends = END_OF_MESSAGE if calls or role == "ipython" else END_OF_TURN
        return [*pieces, self._special(ends)]

    def _header(self, role: str) -> list[Piece]:
        return [
            self._special(HEADER_START),
            self._text(role, "template"),
            self._special(HEADER_END),
            self._text("\n\n", "template"),
        ]

    def _image(self, tiles: Tiles) -> list[Piece]:
        names = list(image_names(tiles.rows, tiles.cols, patch_tokens(self.tile)))
        return [Piece("image", "".join(names), [self.tokenizer.special(name) for name in names])]

    def _text(self, text: str, kind: PieceKind = "text") -> Piece:
        ids = self._known.get(text)
        if ids is None:
            ids = array("i", self.tokenizer.encode(text))
            self._known.put(text, ids)
        return Piece(kind, text, ids)

    def _special(self, name: str) -> Piece:
        return Piece("template", name, (self.tokenizer.special(name),))

    def _by_chat_template(
        self,
        source: str,
        dialog: Sequence[Message],
        tools: Sequence[ToolSpec],
        images: Iterator[Tiles],
        *,
        answer: bool,
    ) -> list[Piece]:
        from llama4sdk.prompting.chat_template import render_chat_template

        pieces: list[Piece] = []
        for text, special in render_chat_template(source, dialog, tools, self.tokenizer.specials, answer=answer):
            if not special:
                pieces.append(self._text(text))
            elif text == IMAGE:
                tiles = next(images, None)
                if tiles is None:
                    raise InvalidRequest("The checkpoint's chat template shows more images than the messages hold.")
                pieces += self._image(tiles)
            else:
                pieces.append(self._special(text))
        if next(images, None) is not None:
            raise InvalidRequest("The checkpoint's chat template leaves out an image that the messages hold.")
        return pieces


def image_names(rows: int, cols: int, patches: int) -> Iterator[str]:
    """Yield the names of the tokens that stand for an image of `rows` × `cols` tiles, `patches` to a tile."""
    yield IMAGE_START
    if rows * cols > 1:
        for _ in range(rows):
            for column in range(cols):
                yield from (PATCH,) * patches
                yield TILE_Y if column == cols - 1 else TILE_X
    yield IMAGE
    yield from (PATCH,) * patches
    yield IMAGE_END


def _rendered(pieces: Sequence[Piece], tiles: tuple[Tiles, ...]) -> Rendered:
    ids = array("i")
    counts: dict[PieceKind, int] = {"text": 0, "image": 0, "template": 0}
    for piece in pieces:
        ids.extend(piece.ids)
        counts[piece.kind] += len(piece.ids)
    digest = hashlib.sha256(ids.tobytes())
    for of in tiles:
        digest.update(of.digest.encode())
    text = "".join(piece.text for piece in pieces)
    return Rendered(
        token_ids=ids.tolist(),
        text=text,
        tiles=tiles,
        count=TokenCount(counts["text"], counts["image"], counts["template"]),
        digest=digest.hexdigest(),
        flags=tuple(name for name, unseen in _UNSEEN.items() if unseen.search(text)),
    )


class _EncodedTexts:
    """The ids of texts seen lately; the least recently used go first."""

    def __init__(self, characters: int) -> None:
        self._room = characters
        self._texts: OrderedDict[str, Sequence[int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> Sequence[int] | None:
        with self._lock:
            if text in self._texts:
                self._texts.move_to_end(text)
            return self._texts.get(text)

    def put(self, text: str, ids: Sequence[int]) -> None:
        with self._lock:
            if text in self._texts or len(text) > self._room:
                return
            self._texts[text] = ids
            self._room -= len(text)
            while self._room < 0:
                gone, _ = self._texts.popitem(last=False)
                self._room += len(gone)
