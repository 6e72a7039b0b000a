"""Runs `transformers serve` on a checkpoint folder: python serve_llama4.py FOLDER PORT.

For pictures that server wants torchvision, whose wheels are all built for CUDA. Without CUDA they can be
used installed without their dependencies, and with the parts stubbed that would load CUDA code.
"""

from __future__ import annotations

import importlib.util
import sys
import types


def stub_torchvision() -> None:
    """Let torchvision be imported where its compiled operators cannot be loaded."""
    import io

    import torch

    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    stub_torchvision.library = library  # type: ignore[attr-defined]  # lives as long as the process
    import torchvision.io

    def decode_image(data, mode=None, *_: object, **__: object):
        import numpy as np
        from PIL import Image

        raw = bytes(data.numpy().tobytes()) if hasattr(data, "numpy") else data
        picture = Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw).convert("RGB")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    torchvision.io.decode_image = decode_image


def main() -> None:
    """Serve until terminated."""
    folder, port = sys.argv[1:3]
    if importlib.util.find_spec("torchvision") is not None:
        stub_torchvision()
    import torch
    from transformers.cli.serve import Serve

    torch.set_num_threads(1)
    Serve(force_model=folder, host="127.0.0.1", port=int(port), device="cpu", dtype="bfloat16")


if __name__ == "__main__":
    main()
