"""The options of the local backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from llama4_local.config.formats import (
    MOST_DRAFTED,
    MOST_STEP_TOKENS,
    SPECULATING_STREAMS,
    CacheType,
    DType,
    HeadType,
    Speculation,
    WeightFormat,
    usual_step_tokens,
)
from llama4_local.config.share import Share, checked_share
from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.image_limits import DEFAULT_LIMITS, ImageLimits
from llama4sdk.prompting.tool_format import ToolsPlace, tools_place

_MOST_THREADS = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `LocalBackend`, which describes them.

    Raises:
        InvalidRequest: For an option that makes no sense.
    """

    device: str = "auto"
    dtype: DType = "auto"
    quantize: WeightFormat | None = None
    verify: bool = False
    cache_dtype: CacheType = "auto"
    head_dtype: HeadType = "auto"
    memory: int | str | None = None
    context: int | None = None
    max_sequences: int = 64
    max_waiting: int = 4096
    max_images: int = 16
    step_tokens: int | None = None
    prefix_caching: bool = True
    deterministic: bool = False
    cuda_graphs: bool = True
    speculate: Speculation | None = None
    threads: int | None = None
    tools_in: ToolsPlace = "system"
    progress: bool | None = None
    own_template: bool = False
    image_limits: ImageLimits = DEFAULT_LIMITS
    tensor_parallel: int = 1
    expert_parallel: bool = False

    def __post_init__(self) -> None:
        tools_place(self.tools_in)
        self._check_kinds()
        checked_share(self.tensor_parallel, self.expert_parallel)
        counts = ("context", "max_sequences", "max_waiting", "max_images", "step_tokens", "threads")
        for name in counts:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidRequest(f"{name} is a whole number of at least 1, got {value!r}.")
        if self.threads is not None and self.threads > _MOST_THREADS:
            raise InvalidRequest(f"threads is at most {_MOST_THREADS}; one for each core is plenty.")
        if max(self.step_tokens or 0, self.max_sequences) > MOST_STEP_TOKENS:
            raise InvalidRequest(
                f"A step holds at most {MOST_STEP_TOKENS:,} tokens; lower step_tokens= or max_sequences=."
            )
        if self.deterministic and self.tensor_parallel > 1:
            raise InvalidRequest("deterministic=True holds in one process: leave it or tensor_parallel= out.")
        if not isinstance(self.image_limits, ImageLimits):
            raise InvalidRequest(f"image_limits is an ImageLimits, not {type(self.image_limits).__name__}.")
        if not isinstance(self.device, str):
            raise InvalidRequest(
                f"device is a string: auto, cpu, cuda, cuda:N or a list of these for ranks; got {self.device!r}."
            )

    @property
    def share(self) -> Share:
        """Rank 0 of those that run the network."""
        return Share(0, self.tensor_parallel, self.expert_parallel)

    def _check_kinds(self) -> None:
        for name, choices in (("quantize", WeightFormat), ("speculate", Speculation)):
            value = getattr(self, name)
            if value is not None and not _is_one_of(value, choices):
                raise InvalidRequest(f"{name} is one of {', '.join(get_args(choices))}, or None; got {shown(value)}.")
        for name, choices in (("dtype", DType), ("cache_dtype", CacheType), ("head_dtype", HeadType)):
            if not _is_one_of(getattr(self, name), choices):
                raise InvalidRequest(
                    f"{name} is one of {', '.join(get_args(choices))}; got {shown(getattr(self, name))}."
                )
        for name in ("verify", "prefix_caching", "deterministic", "cuda_graphs", "own_template", "progress"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "progress" and value is None):
                raise InvalidRequest(f"{name} is True or False; got {shown(value)}.")
        if self.memory is not None and (isinstance(self.memory, bool) or not isinstance(self.memory, int | str)):
            raise InvalidRequest(f"memory is a number of bytes, or text such as '16GB'; got {shown(self.memory)}.")


def _is_one_of(value: object, choices: object) -> bool:
    return isinstance(value, str) and value in get_args(choices)


def step_tokens(options: Options, device: str) -> int:
    """Return the most tokens of a step on a kind of device."""
    return options.step_tokens or usual_step_tokens(device)


def most_sampled(options: Options) -> int:
    """Return the most rows of a step that tokens are sampled from."""
    drafted = MOST_DRAFTED if options.speculate else 0
    return max(options.max_sequences, min(options.max_sequences, SPECULATING_STREAMS) * (1 + drafted))
