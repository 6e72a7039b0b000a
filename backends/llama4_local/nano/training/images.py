"""Images of a few coloured shapes on a light ground, of any size and shape, drawn with Pillow."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from random import Random

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "green": (35, 160, 60),
    "blue": (35, 70, 215),
    "yellow": (245, 205, 25),
    "purple": (135, 40, 165),
    "black": (15, 15, 18),
}
# Pure screen colours that people write by name.
_PURE = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (128, 0, 128),
    "black": (0, 0, 0),
}
SHAPES = ("circle", "square", "triangle")
PLACES = (
    "top left", "top middle", "top right",
    "middle left", "centre", "middle right",
    "bottom left", "bottom middle", "bottom right",
)  # fmt: skip
# Gaps between them, so that the place of a shape is unambiguous.
_LOW, _MIDDLE, _HIGH = (0.15, 0.31), (0.45, 0.55), (0.69, 0.85)
_SCALE = 2  # drawn larger and then shrunk, for smooth edges


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: its colour, its form and the ninth of the image in which its middle lies."""

    colour: str
    form: str
    place: int

    def __str__(self) -> str:
        return f"{self.colour} {self.form}"


@dataclass(frozen=True, slots=True)
class Scene:
    """The shapes of an image, in reading order; none for an image of something else."""

    shapes: tuple[Shape, ...]

    @property
    def key(self) -> str:
        """The layout as text: images with the same one are in the same split."""
        return " ".join(f"{shape}@{shape.place}" for shape in self.shapes)


def random_scene(rng: Random, most: int = 4) -> Scene:
    """Return a scene of one to `most` shapes in different places."""
    count = rng.choices(range(1, most + 1), (4, 4, 3, 3)[:most])[0]
    corners = (0, 2, 6, 8)
    pool = corners if rng.random() < 0.4 else range(9)
    places = sorted(rng.sample(pool, count))
    return Scene(tuple(Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES), place) for place in places))


@dataclass(frozen=True, slots=True)
class Placed:
    """A shape where it was drawn: its middle, and half the side of the square around it, in pixels."""

    shape: Shape
    x: float
    y: float
    radius: float


def draw(rng: Random, scene: Scene) -> Image.Image:
    """Return an image of the scene, RGB, with sides of 40 to 480 pixels."""
    return draw_placed(rng, scene)[0]


def draw_placed(rng: Random, scene: Scene) -> tuple[Image.Image, list[Placed]]:
    """Return an image of the scene, as `draw` does, and where its shapes lie."""
    width, height = _size(rng)
    ground = _ground_colour(rng)
    image = Image.new("RGB", (width * _SCALE, height * _SCALE), ground)
    pen = ImageDraw.Draw(image)
    if not scene.shapes:
        _draw_something_else(rng, pen, image.width, image.height)
    placed = _placed(rng, scene, width, height)
    for each in placed:
        _draw_shape(rng, pen, each)
    return _photographed(rng, image.reduce(_SCALE)), placed


def _size(rng: Random) -> tuple[int, int]:
    side = math.exp(rng.uniform(math.log(56), math.log(300)))
    aspect = 1.0 if rng.random() < 0.3 else math.exp(rng.uniform(-1.0, 1.0) * (0.7 if rng.random() < 0.8 else 1.3))
    root = math.sqrt(aspect)
    return max(40, min(480, round(side * root))), max(40, min(480, round(side / root)))


def _ground_colour(rng: Random) -> tuple[int, int, int]:
    if rng.random() < 0.35:
        return (255, 255, 255)
    low = rng.choice((205, 225, 240))
    return (rng.randint(low, 255), rng.randint(low, 255), rng.randint(low, 255))


def _radius(rng: Random, scene: Scene, width: int, height: int) -> float:
    """Return half the side of the largest shape: from a tenth of the shorter side to what fits into its place."""
    most = min(
        min((0.46 if place % 3 == 1 else 0.28) * width, (0.46 if place // 3 == 1 else 0.28) * height)
        for place in (shape.place for shape in scene.shapes)
    )
    least = 0.1 * min(width, height)
    return least * (max(most, least) / least) ** rng.uniform(0.1, 1.0)


def _placed(rng: Random, scene: Scene, width: int, height: int) -> list[Placed]:
    """Return places for the shapes so that they do not touch one another."""
    if not scene.shapes:
        return []
    largest = _radius(rng, scene, width, height)
    while True:
        placed: list[Placed] = []
        for shape in scene.shapes:
            radius = largest * rng.uniform(0.85, 1.0)
            placed.append(Placed(shape, *_middle(rng, shape.place, width, height, radius * 1.2 + 1), radius))
        pairs = [(one, other) for index, one in enumerate(placed) for other in placed[:index]]
        if all(math.dist((a.x, a.y), (b.x, b.y)) > 1.08 * (a.radius + b.radius) for a, b in pairs):
            return placed
        largest *= 0.97


def _middle(rng: Random, place: int, width: int, height: int, reach: float) -> tuple[float, float]:
    spans = (_LOW, _MIDDLE, _HIGH)
    x, y = rng.uniform(*spans[place % 3]) * width, rng.uniform(*spans[place // 3]) * height
    return min(max(x, reach), width - reach), min(max(y, reach), height - reach)


def _draw_shape(rng: Random, pen: ImageDraw.ImageDraw, placed: Placed) -> None:
    shape, x, y, radius = placed.shape, placed.x * _SCALE, placed.y * _SCALE, placed.radius * _SCALE
    base = (_PURE if rng.random() < 0.3 else COLOURS)[shape.colour]
    jitter = 0 if rng.random() < 0.3 else 18
    red, green, blue = (min(255, max(0, part + rng.randint(-jitter, jitter))) for part in base)
    ink = (red, green, blue)
    if shape.form == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        return
    turn = 0.0 if rng.random() < 0.6 else rng.uniform(-0.15, 0.15)
    if shape.form == "square":
        corners, start, reach = 4, math.pi / 4, radius * 1.2
    else:
        corners, start, reach = 3, -math.pi / 2, radius * 1.15
    angles = [start + turn + 2 * math.pi * corner / corners for corner in range(corners)]
    pen.polygon([(x + reach * math.cos(angle), y + reach * math.sin(angle)) for angle in angles], fill=ink)


def _draw_something_else(rng: Random, pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Stripes, scribbles or many small patches: an image without a shape that nano knows."""
    kind = rng.randrange(4)
    for _ in range((0, 14, 60, 9)[kind]):
        ink = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if kind == 1:
            pen.line((x, y, rng.uniform(0, width), rng.uniform(0, height)), fill=ink, width=rng.randint(2, 8))
        elif kind == 2:
            pen.rectangle((x, y, x + width * rng.uniform(0.02, 0.4), y + height * rng.uniform(0.02, 0.4)), fill=ink)
        else:
            pen.rectangle((0, y, width, y + height * rng.uniform(0.05, 0.3)), fill=ink)


def _photographed(rng: Random, image: Image.Image) -> Image.Image:
    """Blur a little, add the grain and the blocks of a photo saved as JPEG, or leave the image clean."""
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    if rng.random() < 0.2:
        grain = _grain(image.size, rng.uniform(5, 25))
        image = Image.blend(image, grain, rng.uniform(0.02, 0.1))
    if rng.random() < 0.25:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randint(35, 95))
        image = Image.open(file)
        image.load()
    return image


def _grain(size: tuple[int, int], strength: float) -> Image.Image:
    """Return grey noise, the same for the same strength; no seed reaches the generator behind Pillow's own."""
    noise = np.random.default_rng(int(strength * 2**32)).normal(128, strength, size[::-1])
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert("RGB")
