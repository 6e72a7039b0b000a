"""The published names of tensors that other tools saved under names of their own.

Training tools and releases of transformers put the same network behind different prefixes
(`model.language_model.…`, `language_model.model.…`, `module.…`), and save buffers that are computed anew.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4_local.checkpoint.headers import StoredTensor

_LOG = logging.getLogger(__name__)
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}  # of torch, at any depth
_PREFIXES = {"module", "base_model", "model", "language_model"}
_VISION = ("vision_model", "multi_modal_projector")
_DECODER = ("layers", "embed_tokens", "norm")
# Tables of rotary embeddings, and scales of activations and caches: neither changes a weight.
_COMPUTED = re.compile(
    r"(^|\.)(rotary_emb|rotary_embedding)\.[a-z_]+$|\.((input|output|[qkv]|kv_cache)_scale|[kqv]_zero_point"
    r"|input_zero_point|_?amax|(k|v)_bmm_quantizer\.[a-z_]+|(input|output)_quantizer\.[a-z_]+|input_global_scale)$|_input_scale$"
)
_ADAPTER = re.compile(r"\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|base_layer|modules_to_save)\.")
_MODELOPT_SCALE = re.compile(r"(\.experts\.(?:gate_up_proj|down_proj))_weight_scale$")


def is_vision(name: str) -> bool:
    """Whether a published name is of the image encoder or its projector."""
    return name.startswith(_VISION)


def published_name(stored: str, *, multimodal: bool) -> str:
    """Return the published name of a tensor; names that fit no known form stay as they are.

    Args:
        stored: Its name in a file.
        multimodal: Whether the network has an image encoder: then the decoder's names begin with `language_model.`.
    """
    parts = [part for part in stored.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] in _PREFIXES:
        parts = parts[1:]
    core = _MODELOPT_SCALE.sub(r"\1_scale", ".".join(parts))
    if parts[0] in _VISION:
        return core
    prefix = "language_model." if multimodal else ""
    if parts[0] in _DECODER:
        return f"{prefix}model.{core}"
    return f"{prefix}{core}" if parts[0] == "lm_head" else stored


def published(
    tensors: Mapping[str, StoredTensor], *, multimodal: bool, tied: bool, problems: list[str]
) -> dict[str, StoredTensor]:
    """Return a folder's tensors by published name, without those that serving does not need.

    Args:
        tensors: As `find_tensors` returns them.
        multimodal: See `published_name`.
        tied: Whether the embedding serves as head where no head is stored.
        problems: Takes a sentence for each name that two tensors have.
    """
    if any(_ADAPTER.search(stored) for stored in tensors):
        problems.append(
            "matrices of an adapter lie beside those of its base model (lora_A, lora_B); merge the two (peft's "
            "merge_and_unload) and give the result"
        )
        return {}
    by_name: dict[str, StoredTensor] = {}
    left: list[str] = []
    for stored, tensor in tensors.items():
        name = published_name(stored, multimodal=multimodal)
        if _COMPUTED.search(name) or (is_vision(name) and not multimodal):
            left.append(stored)
        elif name in by_name:
            problems.append(f"{by_name[name].key} and {stored} are the same tensor of the network, {name}")
        else:
            by_name[name] = replace(tensor, name=name, alias=stored)
    _report(left)
    prefix = "language_model." if multimodal else ""
    head, embedding = f"{prefix}lm_head.weight", by_name.get(f"{prefix}model.embed_tokens.weight")
    if tied and embedding is not None and not any(name.startswith(head.removesuffix(".weight")) for name in by_name):
        by_name[head] = replace(embedding, name=head)
    return by_name


def _report(left: list[str]) -> None:
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        _LOG.info("not read: %s%s; serving computes these anew or has no use for them", left[0], more)
