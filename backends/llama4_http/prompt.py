"""The prompt made on this side, as token ids to send, and to compare with those of the server. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4sdk.errors import ProtocolError
from llama4sdk.prompting.answer_ids import answer_ids
from llama4sdk.prompting.raw import raw_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.prompting import PromptTemplate, Rendered
    from llama4sdk.request import Request


def render(template: PromptTemplate, request: Request, prefill: str = "", *, show_schema: bool = True) -> list[int]:
    """Return the prompt's token ids, then those of the answer so far.

    Those of a conversation end with the assistant's header and the words to begin with.
    Decodes images: call it in a worker thread.

    Raises:
        InvalidRequest: For messages that cannot be rendered.
    """
    if request.raw is not None:
        return [*raw_ids(template.tokenizer, request.raw), *answer_ids(template.tokenizer, request.answer_so_far)]
    rendered: Rendered = template.render(
        request.messages, request.tools, tool_choice=request.tool_choice, output=request.output if show_schema else None
    )
    return [*rendered.token_ids, *answer_ids(template.tokenizer, prefill + request.answer_so_far)]


def compare(ours: Sequence[int], theirs: Sequence[object]) -> None:
    """Raise `ProtocolError` at the first token in which the server's prompt differs from ours.

    The error gives positions and lengths, never words of the prompt.

    Args:
        ours: Token ids made here.
        theirs: Token ids that the server reports.
    """
    if list(theirs) == list(ours):
        return
    differing = (place for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    place = next(differing, min(len(ours), len(theirs)))
    raise ProtocolError(
        f"The server's prompt differs from ours from token {place} on ({len(theirs)} tokens there, {len(ours)} here); "
        "its chat template is another one. Use prompt_mode='client', or verify_prompt=False."
    )
