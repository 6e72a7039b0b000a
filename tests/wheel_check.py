"""Looks into a built wheel and chats from it in a bare environment: `python tests/wheel_check.py dist`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (
    "llama4sdk/py.typed",
    "llama4sdk/server/page/index.html",
    "llama4_http/py.typed",
    "llama4_local/py.typed",
    "llama4_ray/py.typed",
    "llama4_local/nano/checkpoint/model.safetensors",
    "llama4_local/nano/guard/checkpoint/model.safetensors",
    "llama4_local/ops/kernels/table.json",
)
LEFT_OUT = ("nano/training", "kernels/aot", "tests/", "benchmarks/", "examples/")
MOST_BYTES = 40 * 2**20
CHAT = """
import asyncio, llama4sdk
from llama4sdk import Llama4

async def main():
    async with Llama4() as llama:
        reply = await llama.chat("What is 17 + 25?")
        assert "42" in reply.text, reply.text
        print(llama4sdk.__version__, reply.text)

asyncio.run(main())
"""


def look_into(wheel: Path) -> list[str]:
    """Return the problems of a wheel's content."""
    names = zipfile.ZipFile(wheel).namelist()
    problems = [f"{name} is missing" for name in NEEDED if name not in names]
    problems += [f"{name} does not belong in the wheel" for name in names if any(part in name for part in LEFT_OUT)]
    if wheel.stat().st_size > MOST_BYTES:
        problems.append(f"it takes {wheel.stat().st_size:,} bytes; at most {MOST_BYTES:,} are meant")
    return problems


def chat_from(wheel: Path, folder: Path) -> int:
    """Install a wheel into a new environment and ask nano a question there."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{wheel}[local]"]
    subprocess.run(install, check=True)
    subprocess.run([python, "-c", CHAT], cwd=folder, check=True)
    command = [folder / "bin" / "llama4", "chat", "--prompt", "What is 17 + 25?"]
    said = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
    return 0 if "42" in said else 1


def main(folder: str) -> int:
    """Check the wheel of a folder."""
    (wheel,) = Path(folder).resolve().glob("*.whl")
    problems = look_into(wheel)
    for problem in problems:
        print(f"{wheel.name}: {problem}")
    if problems:
        return 1
    with tempfile.TemporaryDirectory() as bare:
        return chat_from(wheel, Path(bare) / "venv")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
