"""Log-probabilities of a prompt's own tokens: the body that asks for them, and the answer's two forms. Pure.

vLLM and the SDK's own server list them with token ids in `prompt_logprobs`; servers without that field put them before
those of the answer in `logprobs`, where `echo` asks for the prompt to be repeated.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from llama4_http import outgoing, wire
from llama4_http.logprobs import bounded, read_logprobs
from llama4sdk.errors import InvalidRequest, ProtocolError
from llama4sdk.events import TokenLogprob
from llama4sdk.prompting.special_tokens import BEGIN_OF_TEXT
from llama4sdk.surrogates import mended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llama4_http.profiles import Profile
    from llama4_http.settings import Settings
    from llama4sdk.request import RawPrompt, Request


def check(request: Request, profile: Profile, settings: Settings) -> None:
    """Refuse a prompt that this server does not score, before anything is sent.

    Raises:
        InvalidRequest: Then.
    """
    outgoing.check(request, profile, settings)
    if not profile.scores_prompts:
        raise InvalidRequest(
            f"Servers of the profile {profile.name} are not known to score prompts; name the server's own profile, or "
            "pass HttpBackend(profile=dataclasses.replace(…, scores_prompts=True)) where /completions takes echo with "
            "logprobs."
        )


def scoring_body(
    request: Request, profile: Profile, settings: Settings, *, model: str, prompt: RawPrompt, top: int
) -> bytes:
    """Return the body that asks for a prompt's scores, and for no answer.

    Args:
        request: The request that holds the prompt alone.
        profile: The server's kind.
        settings: The backend's choices.
        model: The model's name there.
        prompt: The prompt as it is sent.
        top: Alternatives for each token.
    """
    body = wire.completion_body(request, profile, model=model, prompt=prompt)
    if isinstance(prompt, str) and profile.name == "llama4sdk":  # which repeats the begin token only where it is sent
        body["prompt"] = prompt if prompt.startswith(BEGIN_OF_TEXT) else BEGIN_OF_TEXT + prompt
    body |= {"stream": False, "echo": True, "max_tokens": 0, "logprobs": top, "prompt_logprobs": top}
    body.pop("stream_options", None)
    if profile.returns_prompt_ids:
        body["return_token_ids"] = True
    return wire.encoded({**body, **settings.extra_body})


def read_scores(body: bytes, prompt: RawPrompt, top: int) -> tuple[TokenLogprob, ...]:
    """Return one entry for each token of a prompt; see `ScoresPrompts.score_prompt`.

    Args:
        body: The answer.
        prompt: The prompt as it was sent.
        top: Alternatives for each token.

    Raises:
        ProtocolError: The answer holds no scores, or not one for each token.
    """
    try:
        answer = from_json(body)
        choice: Mapping[str, Any] = answer["choices"][0]
        echoed = read_logprobs(choice.get("logprobs"))
        listed = choice.get("prompt_logprobs")
        if listed:
            scores = _by_id(listed, _ids(choice, prompt, len(listed)), echoed, top)
        else:
            scores = _echoed(choice, echoed, _count(answer, prompt), prompt, top)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise ProtocolError("The server's answer holds no log-probabilities of the prompt.") from None
    if not scores or (not isinstance(prompt, str) and len(scores) != len(prompt)):
        raise ProtocolError("The server's answer does not hold one log-probability for each token of the prompt.")
    return tuple(scores)


def _ids(choice: Mapping[str, Any], prompt: RawPrompt, count: int) -> Sequence[int | None]:
    ids = choice.get("prompt_token_ids") if isinstance(prompt, str) else prompt
    return ids if ids and len(ids) == count else [None] * count


def _by_id(
    listed: Sequence[Mapping[str, Any] | None],
    ids: Sequence[int | None],
    echoed: Sequence[TokenLogprob],
    top: int,
) -> list[TokenLogprob]:
    """Return the entries of `prompt_logprobs`: for each token a mapping of ids, its own first, with their ranks."""
    text = echoed[0].text if echoed else BEGIN_OF_TEXT
    scores = [TokenLogprob(text, math.nan, ids[0])]
    for known, entries in zip(ids[1:], listed[1:], strict=True):
        if entries is None:
            raise TypeError
        own = next(iter(entries)) if known is None else str(known)
        best = sorted(entries.items(), key=_rank)[:top]
        scores.append(_entry(own, entries[own], tuple(_entry(*other) for other in best)))
    return scores


def _rank(entry: tuple[str, Mapping[str, Any]]) -> tuple[float, float]:
    rank = entry[1].get("rank")
    return math.inf if rank is None else rank, -bounded(entry[1].get("logprob"))


def _entry(token: str, fields: Mapping[str, Any], top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(mended(fields.get("decoded_token") or ""), bounded(fields.get("logprob")), int(token), top)


def _count(answer: Mapping[str, Any], prompt: RawPrompt) -> int | None:
    if not isinstance(prompt, str):
        return len(prompt)
    count = (answer.get("usage") or {}).get("prompt_tokens")
    return count if type(count) is int and count > 0 else None


def _echoed(
    choice: Mapping[str, Any], echoed: Sequence[TokenLogprob], count: int | None, prompt: RawPrompt, top: int
) -> list[TokenLogprob]:
    """Return the entries that `echo` put before the answer's; the first token's is null, as nothing precedes it."""
    if choice["logprobs"]["token_logprobs"][0] is not None:
        raise ValueError
    ids: Sequence[int] = () if isinstance(prompt, str) else prompt
    scores = [
        TokenLogprob(token.text, token.logprob, token_id, token.top[:top])
        for token, token_id in zip_longest(echoed[:count], ids)
    ]
    return [TokenLogprob(scores[0].text, math.nan, scores[0].token_id), *scores[1:]]
