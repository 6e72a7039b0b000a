"""The config of a Llama 4 checkpoint, as frozen values.

    ModelConfig
    ├── TextConfig        the decoder: sizes, which layers use RoPE, which are mixtures of experts
    │   └── RopeScaling   how long contexts stretch the rotary wavelengths
    ├── VisionConfig      the image encoder; None for a text-only checkpoint
    └── GenerationConfig  stop tokens and sampling defaults

`config_file.py` makes them from the JSON files of a checkpoint folder, `config_writer.py` goes back. No size is assumed
anywhere: whatever a checkpoint says, within reason, is what gets built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from llama4_local.config.formats import MatrixFormat

_LARGEST_SHUFFLE = 1024  # patches along a side of one token; published encoders join 2


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """The "llama3" way of stretching rotary wavelengths (Llama 3.1's release describes it).

    Args:
        factor: By how much the frequencies of long wavelengths are divided.
        low_freq_factor: Wavelengths above `original_max_positions / low_freq_factor` are divided fully.
        high_freq_factor: Wavelengths below `original_max_positions / high_freq_factor` stay as they are.
        original_max_positions: Context of the pretraining, in tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The decoder's shape.

    Args:
        rope_layers: For each layer, whether it rotates queries and keys (RoPE) or not (NoPE).
        moe_layers: For each layer, whether its feed-forward is a mixture of experts.
        chunk: Tokens of one attention chunk; RoPE layers see only their own chunk. None: no chunks.
        temperature_tuning: Whether NoPE layers scale queries up at far positions.
        floor_scale: Tokens per step of that scaling.
        attn_scale: Strength of that scaling.
    """

    vocab_size: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    expert_size: int
    dense_size: int
    experts: int
    rope_layers: tuple[bool, ...]
    moe_layers: tuple[bool, ...]
    chunk: int | None
    qk_norm: bool
    rope_scaling: RopeScaling | None = None
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    max_positions: int = 131_072
    temperature_tuning: bool = True
    floor_scale: int = 8192
    attn_scale: float = 0.1

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.rope_layers)

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of the query, key and value projections."""
        return self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim

    def is_local(self, layer: int) -> bool:
        """Whether a layer's attention stays within its chunk, so that its cache is freed at the edge."""
        return self.chunk is not None and self.rope_layers[layer]

    def first_like(self, layer: int) -> int:
        """Return the first layer whose heads are treated like this one's; tokens look at one another alike in both."""
        return self.rope_layers.index(self.rope_layers[layer])

    @property
    def local_layers(self) -> tuple[int, ...]:
        """Layers whose attention stays within a chunk."""
        return tuple(layer for layer in range(self.layers) if self.is_local(layer))

    @property
    def global_layers(self) -> tuple[int, ...]:
        """Layers whose attention sees the whole sequence."""
        return tuple(layer for layer in range(self.layers) if not self.is_local(layer))


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The image encoder's shape: tiles in, tokens as wide as the decoder's out.

    Args:
        image_size: Side of a tile in pixels.
        patch_size: Side of a patch in pixels.
        pixel_shuffle: Factor by which each side of the patch grid shrinks before the adapter.
        adapter_size: Width inside the adapter, which is also what it hands to the projector.
    """

    hidden_size: int
    layers: int
    heads: int
    mlp_size: int
    image_size: int
    patch_size: int
    adapter_size: int
    channels: int = 3
    pixel_shuffle: float = 0.5
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def grid(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of one tile."""
        return self.grid**2

    @property
    def shuffle(self) -> int:
        """Neighbouring patches along one side that pixel shuffle joins into one token."""
        return round(1 / self.pixel_shuffle)

    @property
    def patch_tokens(self) -> int:
        """Tokens that the decoder gets for one tile."""
        return (self.grid // self.shuffle) ** 2


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """A checkpoint's defaults for generation; None where it has none. See `llama4sdk.Sampling` for their meaning."""

    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that is known about a checkpoint before its tensors are read.

    Args:
        image_token_id: The placeholder that image features replace; None without an image encoder.
        image_begin_id: Token before an image.
        image_end_id: Token after an image.
        max_tiles: Most tiles that an image is cut into, the overview of the whole not counted.
        dtype: Type of the published weights (`bfloat16`, …), when the config names one.
        fp8: Whether the checkpoint holds matrices in FP8.
        int4: Whether it holds matrices in int4.
        tied: Whether the embedding is the head too, where the checkpoint holds no head.

    Raises:
        CheckpointError: The sizes do not fit together; every problem is listed.
    """

    text: TextConfig
    vision: VisionConfig | None = None
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    image_token_id: int | None = None
    image_begin_id: int | None = None
    image_end_id: int | None = None
    max_tiles: int = 16
    dtype: str | None = None
    fp8: bool = False
    int4: bool = False
    tied: bool = False

    @property
    def stored(self) -> MatrixFormat:
        """The format of the checkpoint's matrices."""
        return "int4" if self.int4 else "fp8" if self.fp8 else "plain"

    def __post_init__(self) -> None:
        problems = config_problems(self.text, self.vision, self.image_token_id)
        if problems:
            raise CheckpointError("config", problems)


def config_problems(text: TextConfig, vision: VisionConfig | None, image_token_id: int | None) -> list[str]:
    """Return what does not fit together in a network's sizes, one sentence each."""
    problems = _text_problems(text)
    if vision is None:
        return problems
    problems += _vision_problems(vision)
    if image_token_id is None or not 0 <= image_token_id < text.vocab_size:
        problems.append(f"image_token_index {image_token_id} lies outside the vocabulary of {text.vocab_size}")
    return problems


def _text_problems(text: TextConfig) -> list[str]:
    sizes = ("vocab_size", "hidden_size", "heads", "kv_heads", "head_dim", "expert_size", "dense_size", "layers")
    problems = [f"{name} must be at least 1, got {getattr(text, name)}" for name in sizes if getattr(text, name) < 1]
    if problems:
        return problems
    rules = {
        f"heads ({text.heads}) must be a multiple of key/value heads ({text.kv_heads})": (
            text.heads % text.kv_heads == 0
        ),
        f"head_dim must be even for rotary pairs, got {text.head_dim}": text.head_dim % 2 == 0,
        f"{len(text.rope_layers)} RoPE flags but {len(text.moe_layers)} expert flags": (
            len(text.rope_layers) == len(text.moe_layers)
        ),
        "a layer is a mixture of experts but num_local_experts is 0": (text.experts > 0 or not any(text.moe_layers)),
    }
    return [problem for problem, kept in rules.items() if not kept]


def _vision_problems(vision: VisionConfig) -> list[str]:
    sizes = ("hidden_size", "heads", "mlp_size", "image_size", "patch_size", "adapter_size", "channels")
    problems = [f"vision {name} must be at least 1" for name in sizes if getattr(vision, name) < 1]
    if not 1 / _LARGEST_SHUFFLE <= vision.pixel_shuffle <= 1:
        problems.append(f"pixel_shuffle_ratio must lie from 1/{_LARGEST_SHUFFLE} to 1, got {vision.pixel_shuffle}")
    if problems:
        return problems
    rules = {
        f"vision heads ({vision.heads}) must divide the hidden size ({vision.hidden_size})": (
            vision.hidden_size % vision.heads == 0
        ),
        f"vision head_dim must be a multiple of 4 for 2-D rotary pairs, got {vision.head_dim}": (
            vision.head_dim % 4 == 0
        ),
        f"patch_size {vision.patch_size} must divide image_size {vision.image_size}": (
            vision.image_size % vision.patch_size == 0
        ),
        f"pixel_shuffle_ratio must be 1 over a whole number, got {vision.pixel_shuffle}": (
            abs(vision.shuffle * vision.pixel_shuffle - 1) < 1e-6
        ),
        f"a grid of {vision.grid} patches cannot be joined {vision.shuffle} by {vision.shuffle}": (
            vision.grid % vision.shuffle == 0
        ),
        f"intermediate_size {vision.mlp_size} must be hidden_size × {vision.shuffle}² for the adapter": (
            vision.mlp_size == vision.hidden_size * vision.shuffle**2
        ),
    }
    return [problem for problem, kept in rules.items() if not kept]
