"""`llama4 pack`: a checkpoint is quantized once; the local backend keeps the packed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from llama4sdk.sync import Llama4

if TYPE_CHECKING:
    from pathlib import Path


def pack_checkpoint(checkpoint: Path, quantize: str) -> None:
    """Load a checkpoint quantized, which packs it, with as small a cache as there can be.

    Raises:
        LlamaError: It cannot be packed.
    """
    options = {"quantize": quantize, "device": "cpu", "max_sequences": 1, "context": 512}
    with Llama4(f"local:{checkpoint}", **options) as llama:
        llama.ready()
    Console(highlight=False).print(f"Packed: llama4 chat local:{checkpoint} -o quantize={quantize}", markup=False)
