"""The bundled models: nano, a small Llama 4, and nano-guard, which judges turns; trained here on data made here."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
GUARD_CHECKPOINT = Path(__file__).parent / "guard" / "checkpoint"
BUNDLED = {"nano": CHECKPOINT, "nano-guard": GUARD_CHECKPOINT}
