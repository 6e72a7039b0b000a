"""nano, the embedded default model: a small Llama 4 that this project trains on data it makes itself."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
