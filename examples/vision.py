"""Ask about your own images: `python examples/vision.py [image …] [--ask QUESTION] [--backend NAME]`.

Without an image, three are drawn. The bundled nano model only knows circles, squares and triangles; with
`--backend http://127.0.0.1:8000/v1` or `--backend local:/models/scout` the same code asks a model that
knows the world. `--no-guards` asks without guards around the turns.
"""

from __future__ import annotations

import argparse
import asyncio

from PIL import Image as Canvas
from PIL import ImageDraw

from llama4sdk import Image, Llama4, LlamaError, UserMessage


def drawn() -> list[Canvas.Image]:
    """Draw three images with one shape each."""
    images: list[Canvas.Image] = []
    for colour, shape in (("green", "circle"), ("blue", "square"), ("black", "triangle")):
        image = Canvas.new("RGB", (56, 56), "white")
        draw = ImageDraw.Draw(image)
        if shape == "circle":
            draw.ellipse((12, 12, 44, 44), fill=colour)
        elif shape == "square":
            draw.rectangle((12, 12, 44, 44), fill=colour)
        else:
            draw.polygon([(28, 10), (10, 46), (46, 46)], fill=colour)
        images.append(image)
    return images


async def main() -> None:
    """Describe each image, then ask across all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", nargs="*")
    parser.add_argument("--ask", default="Which picture has a blue square?")
    parser.add_argument("--backend")
    parser.add_argument("--no-guards", action="store_true")
    options = parser.parse_args()
    images = options.images or drawn()
    async with Llama4(options.backend, guards=None if options.no_guards else "auto") as llama:
        for number, image in enumerate(images, 1):
            try:
                reply = await llama.vision("What is in this picture?", image)
                print(f"{number}. {reply.text}")
            except LlamaError as error:
                print(f"{number}. {type(error).__name__}: {error}")
        async with llama.stream(UserMessage([*map(Image, images), options.ask])) as stream:
            print(f"\n{options.ask} ", end="")
            async for text in stream.text():
                print(text, end="", flush=True)
            print()


if __name__ == "__main__":
    asyncio.run(main())
