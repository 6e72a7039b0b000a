"""The chat template that a checkpoint's folder brings along."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

# In the order in which they are looked for; exporters have written all of them.
_PLACES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")


def read_chat_template(folder: Path) -> str:
    """Return the Jinja source of a checkpoint's own chat template.

    Raises:
        CheckpointError: There is none, or a file cannot be read.
    """
    for name in _PLACES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
            source = text if path.suffix == ".jinja" else _in_json(json.loads(text))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(folder, [f"{name} cannot be read ({type(error).__name__})"]) from error
        if source:
            return source
    raise CheckpointError(
        folder, [f"it has no chat template of its own (looked for in {', '.join(_PLACES)}); leave own_template out"]
    )


def _in_json(tree: object) -> str | None:
    value = cast("dict[str, object]", tree).get("chat_template") if isinstance(tree, dict) else None
    if isinstance(value, list):  # several, by name
        entries = [cast("dict[str, object]", one) for one in cast("list[object]", value) if isinstance(one, dict)]
        value = next((one.get("template") for one in entries if one.get("name") == "default"), None)
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("default")
    return value if isinstance(value, str) else None
