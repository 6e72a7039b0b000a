"""Runs `transformers serve` on a checkpoint folder, for tests."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

missing = [name for name in ("fastapi", "uvicorn", "openai", "transformers") if importlib.util.find_spec(name) is None]
needs_serving = pytest.mark.skipif(
    bool(missing), reason=f"transformers serve needs pip install 'transformers[serving]' (no {', '.join(missing)})"
)
SEES = importlib.util.find_spec("torchvision") is not None
needs_images = pytest.mark.skipif(not SEES, reason="images need torchvision: pip install --no-deps torchvision")
STARTING = 900.0  # seconds; on a quiet machine about twelve are enough


@contextmanager
def transformers_serving(folder: Path, dtype: str = "bfloat16") -> Generator[str]:
    """Yield the address of a server of a checkpoint folder; its log lies beside the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = Path(__file__).parent / "http/serve_llama4.py"
    log = folder.with_name("server.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, launcher, folder, str(port), dtype],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + STARTING
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail(f"transformers serve did not start: {log.read_text('utf-8', 'replace')[-1500:]}")
