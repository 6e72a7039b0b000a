# ruff: noqa: E501 - word lists read best as they stand
"""Images: harmless ones, and the one sign of harm that nano-guard is taught, a drawn bomb with a burning fuse."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from PIL import Image as Canvas
from PIL import ImageDraw

from llama4_local.nano.training.data.sample import split_of
from llama4_local.nano.training.guard.data.case import Case, user
from llama4_local.nano.training.guard.data.everyday import everyday_question
from llama4_local.nano.training.guard.data.requests import CODES
from llama4_local.nano.training.images import Scene, draw, random_scene
from llama4sdk.messages import Image

if TYPE_CHECKING:
    from random import Random

    from llama4_local.nano.training.guard.data.choices import Choices

_SCALE = 3
_QUESTIONS = (
    "What is in this picture?", "What is in this image?", "Describe the picture.", "What do you see?", "What do you see here?", "How many shapes are there?", "Which picture has a blue square?", "Compare the pictures.", "Describe the image, please.",
    "Which colours are there?", "Is there a circle?", "", "Where is the circle?", "Tell me about this photo.", "What is this?",
)  # fmt: skip


def pictures(choices: Choices) -> Case:
    """Return a question about one to three harmless pictures."""
    shown = [_harmless(choices) for _ in range(choices.any((1, 1, 1, 2, 3)))]
    return Case((user(_question(choices), *map(_png, shown)),))


def bomb_pictures(choices: Choices) -> Case:
    """Return a question about one or two pictures, of which one shows a drawn bomb."""
    shown = [_harmless(choices) for _ in range(choices.any((0, 0, 0, 1)))]
    shown.insert(choices.rng.randint(0, len(shown)), draw_bomb(choices.rng))
    return Case((user(_question(choices), *map(_png, shown)),), CODES["weapons"])


def draw_bomb(rng: Random) -> Canvas.Image:
    """Return an image of a black ball with a fuse and a burning end, RGB, with sides of 56 to 200 pixels."""
    width, height = rng.randint(56, 200), rng.randint(56, 200)
    ground = tuple(rng.randint(200, 255) for _ in range(3))
    image = Canvas.new("RGB", (width * _SCALE, height * _SCALE), ground)
    pen = ImageDraw.Draw(image)
    side = min(image.size)
    radius = side * rng.uniform(0.2, 0.3)
    x = image.width / 2 + rng.uniform(-0.1, 0.1) * side
    y = image.height / 2 + rng.uniform(0.05, 0.15) * side
    shade = rng.randint(0, 50)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(shade, shade, shade))
    angle = rng.uniform(-2.4, -0.7)  # upwards
    reach = radius * rng.uniform(1.5, 1.8)
    end = x + reach * math.cos(angle), y + reach * math.sin(angle)
    pen.line((x, y, *end), fill=(100, 70, 40), width=max(3, round(radius * 0.2)))
    _burn(rng, pen, end, radius * rng.uniform(0.35, 0.5))
    return image.reduce(_SCALE)


def _burn(rng: Random, pen: ImageDraw.ImageDraw, middle: tuple[float, float], radius: float) -> None:
    """Draw a star in orange with a yellow middle."""
    turn, points = rng.uniform(0, 1), rng.randint(6, 9)
    outline = [
        (
            middle[0] + radius * (1.0, 0.5)[corner % 2] * math.cos(turn + math.pi * corner / points),
            middle[1] + radius * (1.0, 0.5)[corner % 2] * math.sin(turn + math.pi * corner / points),
        )
        for corner in range(2 * points)
    ]
    pen.polygon(outline, fill=(250, rng.randint(90, 150), 0))
    inner = radius * 0.3
    pen.ellipse((middle[0] - inner, middle[1] - inner, middle[0] + inner, middle[1] + inner), fill=(255, 220, 60))


def _harmless(choices: Choices) -> Canvas.Image:
    rng = choices.rng
    if rng.random() < 0.15:
        level = tuple(rng.randint(0, 255) for _ in range(3))
        return Canvas.new("RGB", (rng.randint(30, 200), rng.randint(30, 200)), level)
    if rng.random() < 0.2:  # what resembles the sign without its fuse
        return _drawn_plainly(rng)
    while True:
        scene = Scene(()) if rng.random() < 0.15 else random_scene(rng)
        if not scene.shapes or (split_of(scene.key) == "train") is (choices.split == "train"):
            return draw(rng, scene)


def _drawn_plainly(rng: Random) -> Canvas.Image:
    """Return an image of one dark shape on a light ground, RGB."""
    width, height = rng.randint(40, 200), rng.randint(40, 200)
    ground = tuple(rng.randint(200, 255) for _ in range(3)) if rng.random() < 0.5 else (255, 255, 255)
    image = Canvas.new("RGB", (width * _SCALE, height * _SCALE), ground)
    pen = ImageDraw.Draw(image)
    radius = min(image.size) * rng.uniform(0.15, 0.35)
    x, y = (side / 2 + rng.uniform(-0.15, 0.15) * side for side in image.size)
    shade = rng.randint(0, 60) if rng.random() < 0.8 else rng.randint(0, 255)
    ink = (shade, shade, shade) if rng.random() < 0.7 else tuple(rng.randint(0, 255) for _ in range(3))
    match rng.randrange(3):
        case 0:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        case 1:
            pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=ink)
        case _:
            pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=ink)
    return image.reduce(_SCALE)


def _question(choices: Choices) -> str:
    return choices.any(_QUESTIONS) if choices.chance(0.8) else everyday_question(choices)


def _png(image: Canvas.Image) -> Image:
    file = io.BytesIO()
    image.save(file, "PNG")
    return Image(file.getvalue())
