"""The checks of a checkpoint before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llama4_local.config.options import most_sampled, step_tokens
from llama4_local.config.share import check_split
from llama4_local.decoding.grammar import Grammars
from llama4_local.planning import available_memory, check_fits
from llama4_local.planning.sizes import parse_bytes
from llama4_local.serving.vocabulary import with_stops
from llama4sdk.errors import BackendMissing, CheckpointError, InvalidRequest
from llama4sdk.prompting import PromptTemplate, Tokenizer
from llama4sdk.prompting.special_tokens import TURN_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from llama4_local.checkpoint.headers import StoredTensor
    from llama4_local.checkpoint.network import Network
    from llama4_local.config.model import ModelConfig
    from llama4_local.config.options import Options
    from llama4_local.planning.planner import Plan

_MODEST_SHARE = 4  # of a CPU's free memory
_SHOWN_PATH = 200  # characters of an odd path that an error shows
_PUBLISHED_TILE = 336  # pixels, for a template that never sees an image


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A checkpoint that passed its checks, and the limits of requests to it.

    Args:
        config: The checkpoint's shape and defaults.
        template: Renders its prompts.
        context: Most tokens that prompt and answer may take together.
        max_images: Most images in a request.
        grammars: Makes the token masks of constrained answers.
        devices: Torch device of each rank.
        cache_memory: Bytes that the cache may take, in each rank.
    """

    config: ModelConfig
    template: PromptTemplate
    context: int
    max_images: int
    grammars: Grammars
    devices: tuple[str, ...]
    cache_memory: int

    @property
    def device(self) -> str:
        """The device of rank 0."""
        return self.devices[0]


def inspect_checkpoint(folder: Path, options: Options, template: PromptTemplate | None) -> ServedModel:
    """Check packages, config, headers and tokenizer, without reading a tensor. Takes seconds the first time.

    Args:
        folder: The checkpoint.
        options: The backend's options.
        template: Renders prompts in place of the checkpoint's own tokenizer.

    Raises:
        BackendMissing: torch or safetensors is not installed.
        CheckpointError: The folder can never be served; every problem is listed.
        InvalidRequest: It does not fit into memory; the message proposes options that do.
    """
    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise BackendMissing(
                f"The local backend needs {package}. Install it with: pip install 'llama4sdk[local]'", backend="local"
            )
    from llama4_local.checkpoint.network import read_network  # with it comes safetensors
    from llama4_local.parallel.devices import devices_of

    _check_folder(folder)
    network = read_network(folder)
    config = network.config
    formats = _look_at_tensors(folder, network, options)
    check_split(config, options.share, quantize=options.quantize)
    devices = devices_of(options.device, options.tensor_parallel)
    _check_speculation(options, devices[0])
    context = config.text.max_positions
    template = template or _template(folder, config, options)
    config = with_stops(config, template.tokenizer)
    return ServedModel(
        config=config,
        template=template,
        context=min(context, options.context or context),
        max_images=min(options.max_images, options.image_limits.max_images) if config.vision else 0,
        grammars=Grammars(template.tokenizer, config.text.vocab_size, config.generation.eos_token_ids),
        devices=devices,
        cache_memory=_cache_memory(folder, config, options, devices, formats),
    )


def _check_folder(folder: Path) -> None:
    """Refuse a path that the operating system cannot look up."""
    try:
        folder.is_dir()
        next(folder.iterdir(), None) if folder.is_dir() else None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no path may hold a NUL character"
        raise CheckpointError(str(folder)[:_SHOWN_PATH], [f"the folder cannot be read: {reason}"]) from None


@dataclass(frozen=True, slots=True)
class _Formats:
    """The formats in which a network will be loaded.

    Args:
        dtype: Of plain weights.
        fp8: The tensors of a checkpoint in FP8.
    """

    dtype: str
    fp8: dict[str, StoredTensor] | None


def _look_at_tensors(folder: Path, network: Network, options: Options) -> _Formats:
    """Check the headers of a checkpoint's files."""
    from llama4_local.checkpoint.fp8 import check_fp8, check_kind, holds_int4, is_quantized
    from llama4_local.checkpoint.plain import check_checkpoint, stored_dtype

    config, tensors = network.config, network.tensors
    narrow = is_quantized(tensors)
    if narrow:
        check_kind(options.quantize, int4=holds_int4(tensors))
        check_fp8(folder, config, tensors)
    else:
        check_checkpoint(folder, config)
    plain = str(stored_dtype(tensors)).removeprefix("torch.")
    return _Formats(plain if options.dtype == "auto" else options.dtype, tensors if narrow else None)


def _check_speculation(options: Options, device: str) -> None:
    from llama4_local.ops.interface import is_hopper

    if options.speculate and is_hopper(device):
        raise InvalidRequest(
            f"speculate={options.speculate!r} saves no time on a Hopper GPU: steps of several tokens run without CUDA "
            "graphs there. Leave it out, or use device='cpu'."
        )


def _cache_memory(
    folder: Path, config: ModelConfig, options: Options, devices: tuple[str, ...], formats: _Formats
) -> int:
    """Return the bytes left for the cache beside the weights, in each rank."""
    import torch

    kind = torch.device(devices[0]).type
    if options.memory is not None:
        memory = parse_bytes(options.memory)
    else:
        memory = _free_on_gpus(devices) if kind == "cuda" else available_memory()
    plan = check_fits(
        config,
        memory,
        name=folder.name,
        context=options.context and min(options.context, config.text.max_positions),
        quantize=options.quantize,
        dtype=formats.dtype,
        cache_dtype=options.cache_dtype,
        head_dtype=options.head_dtype,
        changes=("cache_dtype", "context", "memory"),
        tensors=formats.fp8,
        device=kind,
        step_tokens=step_tokens(options, kind),
        ranks=options.tensor_parallel,
        expert_parallel=options.expert_parallel,
    )
    room = _room_beside_scores(plan, most_sampled(options))
    # Other processes share a CPU's memory: without memory=, the cache takes a modest part of it.
    modest = kind == "cpu" and options.memory is None
    return min(room, memory // options.tensor_parallel // _MODEST_SHARE) if modest else room


def _free_on_gpus(devices: tuple[str, ...]) -> int:
    """Return the bytes that can be used on all of them, since all ranks take alike."""
    import torch

    return len(devices) * min(torch.cuda.mem_get_info(device)[0] for device in devices)


def _room_beside_scores(plan: Plan, rows: int) -> int:
    """Return the bytes for the cache beside the logits of so many rows; the plan's own has those of one.

    Where that leaves less than the planned sequence needs, the cache takes this, and fewer run at once.
    """
    grown = replace(plan.workspace, scores=rows * plan.workspace.scores)
    room = plan.cache_room - (grown.total - plan.workspace.total)
    return max(room, min(plan.cache.total, plan.cache_room))


def _template(folder: Path, config: ModelConfig, options: Options) -> PromptTemplate:
    from llama4_local.checkpoint.chat_template import read_chat_template

    tile = config.vision.image_size if config.vision else _PUBLISHED_TILE
    tokenizer = Tokenizer.from_file(folder)
    missing = [name for name in TURN_TOKENS if name not in tokenizer.specials]
    if missing and not options.own_template:
        raise CheckpointError(
            folder,
            [
                f"the tokenizer has no {', '.join(missing)}, which every Llama 4 prompt has; take the tokenizer of the "
                "base model, or own_template=True for the checkpoint's own form"
            ],
        )
    return PromptTemplate(
        tokenizer,
        tile=tile,
        max_tiles=config.max_tiles,
        chat_template=read_chat_template(folder) if options.own_template else None,
        tools_in=options.tools_in,
        image_limits=options.image_limits,
    )
