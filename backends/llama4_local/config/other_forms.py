"""The forms in which folders hold a model that is not read, and the way from there to one that is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LFS_POINTER = b"version https://git-lfs"
LFS_REMEDY = "is a pointer of Git LFS; fetch the files themselves with git lfs pull"

_FORM = "the safetensors files of the Hugging Face form"
_PICKLES = re.compile(r".+\.(bin|pt|pth|pkl|pickle|ckpt)")
# The first that a name of the folder fits counts: the more telling stand first.
_FORMS = (
    (
        r"adapter_(config\.json|model\.(safetensors|bin))",
        "this is an adapter without its base model; merge the two (peft's merge_and_unload) and give the result",
    ),
    (
        r"zero_to_fp32\.py|global_step\d+|zero_pp_rank_.+",
        f"this is a checkpoint of DeepSpeed; run its zero_to_fp32.py --safe_serialization, and give {_FORM}",
    ),
    (
        r".+\.distcp|pytorch_model_fsdp_\d+",
        f"this is a sharded checkpoint of torch (FSDP); merge it with accelerate merge-weights, and give {_FORM}",
    ),
    (r".+\.gguf", f"GGUF files are not read; give {_FORM}, in bf16, FP8 or W4A16"),
    (r".+\.(incomplete|part|crdownload|aria2)", "a download into this folder is not complete; let it go on"),
    (
        r".+-\d+-of-\d+\.safetensors",
        "there are parts of a model and no model.safetensors.index.json that names the tensors in each; copy it from "
        "where the parts come from",
    ),
    (r"consolidated\.safetensors", f"consolidated.safetensors has names of another form; give {_FORM}"),
    (r"tf_model\.h5|flax_model\.msgpack|.+\.(onnx|npz|nemo|engine|mlmodel|mlpackage)", ""),
)


def other_form(folder: Path) -> str | None:
    """Return a sentence on the form of a folder's files, where it is one that is known and not read."""
    names = sorted(path.name for path in folder.iterdir())
    for form, sentence in _FORMS:
        name = next((name for name in names if re.fullmatch(form, name)), None)
        if name is not None:
            return sentence or f"{name} is of a form that is not read; give {_FORM}"
    pickle = next((name for name in names if _PICKLES.fullmatch(name)), None)
    if pickle is not None:
        return (
            f"{pickle} is a pickle, which can run code when it is read, so it is refused; give {_FORM} "
            "(Meta's own form, consolidated.*.pth, is not read)"
        )
    inner = [path.parent for path in folder.glob("*/config.json")]
    if inner:
        latest = max(inner, key=lambda path: path.stat().st_mtime)
        return f"there are models in folders below this one; give one of them, such as {latest.name}"
    return None
