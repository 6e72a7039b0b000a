"""The differences between servers that speak the OpenAI wire: pure.

A profile lists the fields that a server takes. `detect` guesses it from the server's lists and headers;
`HttpBackend(profile=…)` overrides the guess. Facts from the servers' public documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic_core import from_json

from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

ProfileName: TypeAlias = Literal[
    "openai-generic", "llama4sdk", "vllm", "sglang", "nim", "nvidia-catalog", "llamacpp", "transformers"
]
SchemaField: TypeAlias = Literal["none", "response_format", "response_format_flat", "structured_outputs", "guided_json"]
Completions: TypeAlias = Literal["none", "text", "everything"]
PromptIds: TypeAlias = Literal["none", "completions", "input_ids"]
Prefill: TypeAlias = Literal["none", "automatic", "continue_final_message"]


@dataclass(frozen=True, slots=True)
class Profile:
    """The fields that one kind of server takes.

    Args:
        name: Its name.
        sampling: Fields of `Sampling` that it takes, beyond `temperature`, `top_p`, `max_tokens`, `stop`.
        schema: Where it takes a JSON schema that the answer must keep to.
        tools: Whether it takes tools as a field and parses the calls; else the prompt declares them.
        prompt_ids: Where it takes a prompt as token ids.
        completions: Which raw prompts `/completions` takes: none, `text`, or `everything`, token ids too.
        scores_prompts: Whether `/completions` with `echo` tells how probable the prompt's own tokens are.
        returns_prompt_ids: Whether it can return the token ids that it made of the messages.
        prefill: How it goes on with an assistant message that stands last.
        whole_answer: Whether it takes that message as the beginning of the answer in all respects: exactly as it is,
            within the form that the answer keeps to, and without repeating the draws of its seed.
        usage_field: Whether it takes `stream_options.include_usage`.
        logprobs: Whether it takes `logprobs` and `top_logprobs`.
        max_images: Most images per request; None where it depends on how it was started.
        max_inline: Most bytes of one inline image, as base64; None for no known limit.
        progress: Whether it reports the reading of the prompt when asked.
        assets_url: Where images that are too large to be inline are uploaded.
        top_k_off: The value of `top_k` that switches it off.
        status_url: Where an answer that takes long (HTTP 202) is asked for; its id is appended.
    """

    name: ProfileName
    sampling: frozenset[str] = frozenset({"seed", "presence_penalty", "frequency_penalty", "logit_bias"})
    schema: SchemaField = "response_format"
    tools: bool = True
    prompt_ids: PromptIds = "none"
    completions: Completions = "everything"
    scores_prompts: bool = False
    returns_prompt_ids: bool = False
    prefill: Prefill = "none"
    whole_answer: bool = False
    usage_field: bool = True
    logprobs: bool = True
    max_images: int | None = None
    max_inline: int | None = None
    progress: bool = False
    assets_url: str | None = None
    status_url: str | None = None
    top_k_off: int = 0


_PENALTIES = frozenset({"seed", "presence_penalty", "frequency_penalty"})
_EXTENDED = _PENALTIES | {"logit_bias", "top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids"}

PROFILES: Mapping[ProfileName, Profile] = {
    profile.name: profile
    for profile in (
        Profile("openai-generic", completions="text"),
        Profile(
            "llama4sdk",
            sampling=(_EXTENDED | {"priority", "cache_salt"}) - {"logit_bias"},
            prompt_ids="completions",
            scores_prompts=True,
            prefill="continue_final_message",
            whole_answer=True,
        ),
        Profile(
            "vllm",
            sampling=_EXTENDED | {"priority", "cache_salt"},
            schema="structured_outputs",
            prompt_ids="completions",
            scores_prompts=True,
            returns_prompt_ids=True,
            prefill="continue_final_message",
            top_k_off=-1,
        ),
        Profile("sglang", sampling=_EXTENDED, prompt_ids="input_ids", prefill="continue_final_message", top_k_off=-1),
        Profile("nim", sampling=_EXTENDED, prompt_ids="completions", max_images=5, top_k_off=-1),
        Profile(
            "nvidia-catalog",
            sampling=_PENALTIES,
            schema="none",
            completions="none",
            usage_field=False,
            logprobs=False,
            tools=False,
            max_inline=180_000,
            assets_url="https://api.nvcf.nvidia.com/v2/nvcf/assets",
            status_url="https://api.nvcf.nvidia.com/v2/nvcf/pexec/status",
        ),
        Profile(
            "llamacpp",
            sampling=_PENALTIES | {"top_k", "min_p", "repetition_penalty", "logit_bias"},
            schema="response_format_flat",
            prompt_ids="completions",
            prefill="automatic",
            progress=True,
        ),
        Profile(
            "transformers",
            sampling=frozenset({"seed", "frequency_penalty"}),
            schema="none",
            completions="none",
            tools=False,
            usage_field=False,
            logprobs=False,
        ),
    )
}

NVIDIA_HOST = "integrate.api.nvidia.com"


def profile_named(name: str | Profile) -> Profile:
    """Return the profile of that name, or raise `InvalidRequest` with the names that exist."""
    if isinstance(name, Profile):
        return name
    for profile in PROFILES.values():
        if profile.name == name:
            return profile
    raise InvalidRequest(f"No profile named {shown(name)}; there are auto, {', '.join(PROFILES)}.")


def detect(
    base_url: str,
    *,
    models: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    version: Mapping[str, Any] | None,
    model: str | None = None,
) -> Profile:
    """Return the profile that fits a server's lists and headers.

    Args:
        base_url: The server's address.
        models: The body of `GET /models`, when it came.
        headers: That answer's headers, names in lower case.
        version: The body of `GET /version` beside `/v1`, when it came.
        model: The model that is asked. Only its owner counts: a router lists models of many servers.
    """
    if urlsplit(base_url).hostname == NVIDIA_HOST:
        return PROFILES["nvidia-catalog"]
    alone = "vllm" if _release(version) else "openai-generic"
    name = _hinted(headers.get("server", "")) or _of_owners(models, model) or alone
    return of_release(PROFILES[name], version)


def of_release(profile: Profile, version: Mapping[str, Any] | None) -> Profile:
    """Return the profile as the server's release needs it; only vLLM's releases differ.

    Args:
        profile: The server's kind.
        version: The body of `GET /version`, when it came.
    """
    release = _release(version)
    return replace(profile, schema=_vllm_schema(release)) if profile.name == "vllm" and release else profile


def _release(version: Mapping[str, Any] | None) -> str | None:
    release = version.get("version") if version is not None else None
    return release if isinstance(release, str) else None


def _of_owners(models: Mapping[str, Any] | None, model: str | None) -> ProfileName | None:
    entries = listed(models)
    entries = [entry for entry in entries if entry["id"] == model] or entries
    names: set[ProfileName | None] = {_hinted(str(entry.get("owned_by", ""))) for entry in entries}
    return names.pop() if len(names) == 1 else None


def _hinted(text: str) -> ProfileName | None:
    text = text[:64].lower()
    for word, name in _HINTS:
        if word in text:
            return name
    return None


def _vllm_schema(release: str) -> SchemaField:
    """Return where vLLM of a release takes a schema: a field of another release is dropped without an error."""
    match = re.match(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", release)
    if match is None or (number := tuple(int(part or 0) for part in match.groups())) < (0, 1):
        return "response_format"  # a build without a number
    if number >= (0, 11, 0):
        return "structured_outputs"  # guided_json is gone since 0.12
    return "response_format" if number >= (0, 6, 5) else "guided_json"


_HINTS: tuple[tuple[str, ProfileName], ...] = (
    ("llama4sdk.server", "llama4sdk"),
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("llama.cpp", "llamacpp"),
    ("llamacpp", "llamacpp"),
    ("nvidia", "nim"),
    ("transformers", "transformers"),
)


def listed(models: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the entries of a `/models` answer that can be read, in order."""
    entries = models.get("data") if models else None
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def context_of(models: Mapping[str, Any] | None, model: str) -> int | None:
    """Return how many tokens the model's context holds, where the server lists it."""
    for entry in listed(models):
        if entry["id"] == model:
            meta = entry.get("meta")
            candidates = (entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None)
            return next((n for n in candidates if type(n) is int and n > 0), None)
    return None


def guards_of(models: Mapping[str, Any] | None, model: str) -> tuple[str, ...] | None:
    """Return the names of the guards in front of the model, where the server lists them."""
    for entry in listed(models):
        names = entry.get("guards")
        if entry["id"] == model and isinstance(names, list):
            return tuple(name[:80] for name in names if isinstance(name, str))
    return None


def only_model(models: Mapping[str, Any] | None) -> str:
    """Return the one model that a server lists.

    Raises:
        InvalidRequest: When it lists none, or several.
    """
    names = [entry["id"] for entry in listed(models)]
    if len(names) != 1:
        shown = ", ".join(name[:80] for name in names[:8])
        raise InvalidRequest(
            f"The server lists {len(names)} models; name one with model=…{f': {shown}' if shown else ''}."
        )
    return names[0]


def json_object(body: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object that a body holds, or None."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def asset_of(body: bytes, assets_url: str) -> tuple[str, str]:
    """Return the id of an upload, and where its bytes go.

    Raises:
        ProtocolError: When the answer does not name both, or would have them sent without encryption.
    """
    fields = json_object(body) or {}
    asset, url = fields.get("assetId"), fields.get("uploadUrl")
    safe = isinstance(url, str) and (url.startswith("https://") or assets_url.startswith("http://"))
    if not isinstance(asset, str) or not _ID.fullmatch(asset) or not isinstance(url, str) or not safe:
        raise ProtocolError("The server named no address for the upload of an image.")
    return asset, url


def poll_id(headers: Mapping[str, str]) -> str:
    """Return the id under which an answer that takes long is asked for.

    Raises:
        ProtocolError: When the server gave none.
    """
    request_id = headers.get("nvcf-reqid", "")
    if not _ID.fullmatch(request_id):
        raise ProtocolError("The server put its answer off without an id to ask for it.")
    return request_id


_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
