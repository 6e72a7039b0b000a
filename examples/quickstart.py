"""Chat, vision and two streams at once, with the bundled nano model: offline, inside this process.

Run it with: `python examples/quickstart.py`
"""

from __future__ import annotations

import asyncio
import sys

from PIL import Image, ImageDraw

from llama4sdk import Llama4


def image() -> Image.Image:
    """Draw a red circle and a blue square on a light ground."""
    image = Image.new("RGB", (112, 112), "#f4f1e8")
    draw = ImageDraw.Draw(image)
    draw.ellipse((16, 18, 48, 50), fill="red")
    draw.rectangle((66, 66, 96, 96), fill="blue")
    return image


async def chat(llama: Llama4) -> None:
    """Print an answer while it is written."""
    for question in ("Hello!", "What is 17 + 25?", "What is the capital of France?"):
        print(f"\nyou   {question}\nnano  ", end="", flush=True)
        async with llama.stream(question) as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
    print(f"\n      ({stream.snapshot.usage.total_tokens} tokens, {stream.snapshot.finish_reason})")


async def look(llama: Llama4) -> None:
    """Ask about an image that was made just now."""
    print("\nyou   [an image] What is in this picture?")
    reply = await llama.vision("What is in this picture?", image())
    print(f"nano  {reply.text}\n      ({reply.usage.image_tokens} of {reply.usage.prompt_tokens} tokens are the image)")


async def two_at_once(llama: Llama4) -> None:
    """Run two streams side by side; the letter says which one each piece came from."""

    async def follow(letter: str, question: str) -> str:
        async with llama.stream(question) as stream:
            async for text in stream.text():
                print(f"{letter}:{text.strip()}", end=" ", flush=True)
        return stream.snapshot.text

    print("\nTwo streams at once:")
    questions = ("Count from 1 to 6.", "Who are you?")
    answers = await asyncio.gather(*map(follow, "ab", questions))
    for letter, question, answer in zip("ab", questions, answers, strict=True):
        print(f"\n{letter}  {question} → {answer}", end="")
    print()


async def main() -> None:
    """Do all three."""
    async with Llama4(guards=None if "--no-guards" in sys.argv else "auto") as llama:
        await chat(llama)
        await look(llama)
        await two_at_once(llama)


if __name__ == "__main__":
    asyncio.run(main())
