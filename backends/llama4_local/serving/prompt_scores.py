"""Log-probabilities of a prompt's own tokens, computed between the steps of other requests."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import anyio

from llama4_local.serving.prepare import check_prompt, raw_token_ids
from llama4sdk.checks import check_whole
from llama4sdk.events import TokenLogprob
from llama4sdk.request import Request, raw_prompt
from llama4sdk.sampling import MOST_LOGPROBS
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from llama4_local.engine.engine import Engine
    from llama4_local.serving.generation import Host
    from llama4sdk.request import RawPrompt

_PIECE = 128  # tokens: the scores of a whole vocabulary are large


class PromptScores:
    """Scores one prompt at a time, so that what it takes beside the engine's own cache stays small.

    Args:
        host: The backend.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._turn = anyio.Lock()

    async def score(self, raw: RawPrompt, *, top: int) -> tuple[TokenLogprob, ...]:
        """Return one entry for each token of a prompt; see `ScoresPrompts.score_prompt`.

        Raises:
            LlamaError: The prompt cannot be scored.
        """
        check_whole("top", top, 0, MOST_LOGPROBS, optional=False)
        checked = Request((), raw=raw_prompt(raw)).raw or ""
        engine_thread, served = self._host.running()
        ids = await run_in_daemon_thread(partial(raw_token_ids, served, checked))
        check_prompt(ids, (), served)
        decode = served.template.tokenizer.decode
        scores = [TokenLogprob(decode(ids[:1]), math.nan, ids[0])]
        async with self._turn:
            run = _Run(ids, top)
            while not run.over:
                for token, (logprob, best) in await engine_thread.ask(run.next_piece):
                    others = tuple(TokenLogprob(decode([other]), value, other) for other, value in best)
                    scores.append(TokenLogprob(decode([token]), logprob, token, others))
        return tuple(scores)


# A token's log-probability, and the most probable tokens with theirs.
_Score = tuple[float, list[tuple[int, float]]]


class _Run:
    """One prompt under way.

    Args:
        ids: Its tokens.
        top: Alternatives for each.
    """

    def __init__(self, ids: Sequence[int], top: int) -> None:
        self._ids = ids
        self._top = top
        self._pieces: Iterator[Tensor] | None = None
        self._done = 0

    @property
    def over(self) -> bool:
        """Whether every token has its score."""
        return self._done >= len(self._ids) - 1

    def next_piece(self, engine: Engine) -> list[tuple[int, _Score]]:
        """Return the scores of the next tokens; in the engine's thread."""
        import torch

        from llama4_local.engine.prompt_logits import prompt_logits
        from llama4_local.ops.reference.sampling import log_probabilities

        with torch.inference_mode():
            if self._pieces is None:
                self._pieces = prompt_logits(engine.model, self._ids, piece=_PIECE)
            logits = next(self._pieces)
            following = self._ids[self._done + 1 : self._done + 1 + len(logits)]
            self._done += len(logits)
            sampled = torch.tensor(following, device=logits.device)
            own, ids, values = log_probabilities(logits[: len(following)], sampled, self._top)
        best = [list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
        return list(zip(following, zip(own.tolist(), best, strict=True), strict=True))
