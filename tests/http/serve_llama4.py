"""Runs `transformers serve` on a checkpoint folder: python serve_llama4.py FOLDER PORT.

For images that server needs torchvision, whose wheels are all built for CUDA. Without CUDA they can be
used installed without their dependencies, and with the parts stubbed that would load CUDA code.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
import types
from typing import Any


def stub_torchvision() -> object:
    """Let torchvision be imported where its compiled operators cannot be loaded."""
    import torch

    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    images: Any = importlib.import_module("torchvision.io")

    def decode_image(data: Any, *_: object, **__: object) -> torch.Tensor:
        import numpy as np
        from PIL import Image

        raw = bytes(data.numpy().tobytes()) if hasattr(data, "numpy") else data
        image = Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    images.decode_image = decode_image
    return library  # its operator exists as long as it does


def main() -> None:
    """Serve until terminated."""
    folder, port = sys.argv[1:3]
    library: object = None
    if importlib.util.find_spec("torchvision") is not None:
        library = stub_torchvision()
    import torch
    from transformers.cli.serve import Serve

    torch.set_num_threads(1)
    Serve(force_model=folder, host="127.0.0.1", port=int(port), device="cpu", dtype="bfloat16")
    del library


if __name__ == "__main__":
    main()
