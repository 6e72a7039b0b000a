# ruff: noqa: E501 - word lists read best as they stand
"""Questions about images: describe, count, what is where, is there, and which of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama4_local.nano.training.data.arithmetic import arithmetic
from llama4_local.nano.training.data.capitals import capitals
from llama4_local.nano.training.data.greetings import greeting
from llama4_local.nano.training.data.identity import identity
from llama4_local.nano.training.data.sample import Exchange, Sample, messages_of
from llama4_local.nano.training.data.wording import system_text, worded
from llama4_local.nano.training.images import COLOURS, PLACES, SHAPES, Scene, Shape, draw, random_scene
from llama4sdk.messages import AssistantMessage, Image, Message, SystemMessage, Text, UserMessage

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

NOTHING = "I see no circle, square or triangle in this picture."
_WHAT = (
    "What is in this picture?", "What is in this picture?", "What is in this picture?", "What do you see?", "What is in the picture?",
    "What's in this picture?", "What does the picture show?", "What can you see here?", "What is shown here?", "What do you see in this image?",
    "What is this?", "What is in the image?", "What does this image show?", "Name the shapes in this picture.", "List the shapes.",
    "Which shapes are in the picture?", "Tell me what you see.", "What shapes do you see?", "Caption this picture.", "What is on the picture?",
    "What's this?", "What is in this image?", "What is here?", "Give me a caption.", "What objects are in the image?", "What do we have here?",
    "Can you tell me what is in this picture?", "What is it?", "What is displayed here?", "look at this picture. what is in it?",
    "What's in the photo?", "What is in this photo?", "Look at this.", "",
)  # fmt: skip
_DESCRIBE = (
    "Describe this image.", "Describe the picture.", "Describe this picture.", "Describe what you see.", "Describe the image in detail.",
    "Please describe this picture.", "Can you describe this image?", "Give me a description.", "Describe it.", "Describe this photo.",
    "What is where?", "Where are the shapes?", "Describe the scene.", "Tell me what is where in this picture.", "Describe the image.",
    "Can you describe the picture for me?", "Describe this image in detail.", "Describe.", "Where is everything?",
)  # fmt: skip
_COUNT_ALL = (
    "How many shapes are there?", "Count the shapes.", "How many shapes do you see?", "How many shapes are in this picture?", "How many objects are there?",
    "How many things are in the picture?", "Number of shapes?", "Can you count the shapes?", "How many?", "How many objects do you see?",
    "Count the objects.", "how many shapes", "How many shapes are in the image?", "How many figures are there?",
)  # fmt: skip
_COUNT_SOME = (
    "How many {some} are there?", "Count the {some}.", "How many {some} do you see?", "How many {some} are in this picture?",
    "How many {some} are in the image?", "Number of {some}?", "How many {some}?", "Can you count the {some}?",
)  # fmt: skip
_AT = (
    "What is at the {place}?", "What is in the {place}?", "What do you see at the {place}?", "Which shape is at the {place}?",
    "What's at the {place}?", "What is on the {place}?", "Which shape is in the {place}?", "Is there something at the {place}?",
    "What is at the {place} of the picture?", "What can you see in the {place}?", "Tell me what is at the {place}.",
    "What is in the {place} corner?", "Name the shape at the {place}.", "what is in the {place} of the image",
)  # fmt: skip
_IS_THERE = (
    "Is there {one}?", "Is there {one} in this picture?", "Do you see {one}?", "Can you see {one}?", "Does the picture show {one}?",
    "Is {one} in the picture?", "Is there {one} in the image?", "Does this picture have {one}?", "Is there {one} here?",
    "Does the image contain {one}?", "Do you see {one} in the image?",
)  # fmt: skip
_COLOUR_OF = (
    "What colour is the {form}?", "What color is the {form}?", "Which colour is the {form}?", "What is the colour of the {form}?",
    "What is the color of the {form}?", "Which color does the {form} have?", "The {form}: which colour?", "Tell me the colour of the {form}.",
)  # fmt: skip
_FORM_OF = (
    "Which shape is {colour}?", "What shape is {colour}?", "What is {colour}?", "Which shape is the {colour} one?", "What is the {colour} thing?",
    "What is the {colour} shape?", "What is the shape of the {colour} one?", "What form has the {colour} shape?",
)  # fmt: skip
_WHERE = (
    "Where is the {one}?", "Where do you see the {one}?", "Where's the {one}?", "In which part of the picture is the {one}?",
    "Where is the {one} in the picture?", "Tell me where the {one} is.", "What is the position of the {one}?",
)  # fmt: skip
_WHICH = (
    "Which picture has {one}?", "Which picture shows {one}?", "Which image has {one}?", "In which picture is {one}?", "Which one has {one}?",
    "Which of the pictures shows {one}?", "Which picture contains {one}?", "Where is {one}?", "Which of these images has {one}?",
    "In which image do you see {one}?", "Find {one}. Which picture is it in?",
)  # fmt: skip
_HOW_MANY_IMAGES = (
    "How many pictures are there?", "How many pictures did I show you?", "How many images do you see?", "How many images are there?",
    "Count the pictures.", "How many pictures do you see?",
)  # fmt: skip
_IN_NUMBER = (
    "What is in picture {n}?", "What is in the {nth} picture?", "What does picture {n} show?", "What does the {nth} picture show?",
    "Describe the {nth} picture.", "What do you see in picture {n}?", "What is in the {nth} image?", "Describe picture {n}.",
    "What's in image {n}?", "Tell me what is in picture {n}.",
)  # fmt: skip
_ALL = (
    "Describe the pictures.", "What is in these pictures?", "What do you see in the pictures?", "What do the pictures show?", "Describe each picture.",
    "Describe all pictures.", "What is in each picture?", "What do these images show?", "Describe these images.", "What do you see?",
)  # fmt: skip
_NEXT = (
    "And this one?",
    "And now?",
    "What about this one?",
    "And in this picture?",
    "What is in this one?",
    "Now this picture.",
)
_NTH = ("first", "second", "third", "fourth", "fifth")
_SPOKEN_PLACES = (
    ("top left", "upper left"), ("top middle", "top", "top centre", "top center"), ("top right", "upper right"),
    ("middle left", "left", "left side"), ("centre", "middle", "center"), ("middle right", "right", "right side"),
    ("bottom left", "lower left"), ("bottom middle", "bottom", "bottom centre"), ("bottom right", "lower right"),
)  # fmt: skip


def single_image(rng: Random) -> Sample:
    """Return one to five questions about one image."""
    if rng.random() < 0.06:
        return _another_image(rng)
    scene = Scene(()) if rng.random() < 0.06 else random_scene(rng)
    image = Image(draw(rng, scene))
    exchanges = [_question(rng, scene) for _ in range(rng.choice((1, 1, 2, 3, 4, 5)))]
    if not exchanges[0][0]:
        return _sample(rng, "pictures", [image], exchanges[:1], scene.key)
    return _sample(rng, "pictures", [image], [exchange for exchange in exchanges if exchange[0]], scene.key)


def _another_image(rng: Random) -> Sample:
    """Return a dialog in which a second image is shown after the first was answered."""
    first, second = random_scene(rng), random_scene(rng)
    sample = _sample(rng, "pictures", [Image(draw(rng, first))], [_question(rng, first)], f"{first.key} | {second.key}")
    said, answered = (worded(rng, _NEXT), caption(second)) if rng.random() < 0.5 else _question(rng, second)
    shown = UserMessage([Image(draw(rng, second)), *([Text(said)] if said else [])])
    return Sample("pictures", (*sample.messages, shown, AssistantMessage(answered)), sample.key)


def several_images(rng: Random) -> Sample:
    """Return one to four questions over two to five images."""
    scenes = [random_scene(rng, 2) for _ in range(rng.choice((2, 2, 2, 3, 3, 4, 5)))]
    images = [Image(draw(rng, scene)) for scene in scenes]
    exchanges = [_question_over(rng, scenes) for _ in range(rng.choice((1, 2, 3, 4)))]
    return _sample(rng, "several pictures", images, exchanges, " | ".join(scene.key for scene in scenes))


def caption(scene: Scene) -> str:
    """Return what is in an image, in reading order."""
    if not scene.shapes:
        return NOTHING
    listed = joined([f"a {shape}" for shape in scene.shapes])
    return f"{listed[0].upper()}{listed[1:]}."


def description(scene: Scene) -> str:
    """Return what is in an image and where."""
    if not scene.shapes:
        return NOTHING
    return f"The picture shows {joined([f'a {shape} at the {PLACES[shape.place]}' for shape in scene.shapes])}."


def joined(parts: list[str]) -> str:
    """Return parts as a person lists them."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sample(rng: Random, skill: str, images: list[Image], exchanges: list[Exchange], key: str) -> Sample:
    system = system_text(rng) if rng.random() < 0.5 else ""
    messages: list[Message] = [SystemMessage(system)] if system else []
    if rng.random() < 0.1:
        before, _ = rng.choice((arithmetic, capitals, greeting, identity))(rng)
        messages += messages_of(before)
    for number, (said, answered) in enumerate(exchanges):
        if number == 0:
            text = [Text(said)] if said else []
            parts = [*text, *images] if text and rng.random() < 0.15 else [*images, *text]
            messages.append(UserMessage(parts))
        else:
            messages.append(UserMessage(said))
        messages.append(AssistantMessage(answered))
    return Sample(skill, tuple(messages), key)


def _question(rng: Random, scene: Scene) -> Exchange:
    kinds: tuple[Callable[[Random, Scene], Exchange], ...] = (
        _what, _describe, _count_all, _count_some, _at, _is_there, _colour_of, _where,
    )  # fmt: skip
    if not scene.shapes:
        kinds = (_what, _what, _describe, _count_all, _is_there)
        return rng.choice(kinds)(rng, scene)
    return rng.choices(kinds, (4, 3, 2, 3, 3, 3, 2, 2))[0](rng, scene)


def _what(rng: Random, scene: Scene) -> Exchange:
    return worded(rng, _WHAT) if rng.random() < 0.98 else "", caption(scene)


def _describe(rng: Random, scene: Scene) -> Exchange:
    return worded(rng, _DESCRIBE), description(scene)


def _counted(number: int, one: str) -> str:
    if number == 1:
        return f"There is 1 {one}."
    return f"There are {number or 'no'} {one}s."


def _count_all(rng: Random, scene: Scene) -> Exchange:
    return worded(rng, _COUNT_ALL), _counted(len(scene.shapes), "shape")


def _count_some(rng: Random, scene: Scene) -> Exchange:
    one = rng.choice(SHAPES) if rng.random() < 0.6 else f"{rng.choice(list(COLOURS))} shape"
    if rng.random() < 0.5:
        shape = rng.choice(scene.shapes)
        one = shape.form if rng.random() < 0.6 else f"{shape.colour} shape"
    if rng.random() < 0.15:
        one = str(rng.choice(scene.shapes))
    number = sum(one in (shape.form, f"{shape.colour} shape", str(shape)) for shape in scene.shapes)
    some = f"{one}s".replace("shapes", "objects") if rng.random() < 0.1 else f"{one}s"
    return worded(rng, _COUNT_SOME, some=some), _counted(number, one)


def _at(rng: Random, scene: Scene) -> Exchange:
    place = rng.choice(scene.shapes).place if rng.random() < 0.75 else rng.randrange(9)
    found = [shape for shape in scene.shapes if shape.place == place]
    said = worded(rng, _AT, place=rng.choice((PLACES[place], *_SPOKEN_PLACES[place])))
    return said, f"A {found[0]}." if found else f"There is nothing at the {PLACES[place]}."


def _some_shape(rng: Random, scene: Scene) -> Shape:
    if scene.shapes and rng.random() < 0.5:
        return rng.choice(scene.shapes)
    return Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES), 0)


def _is_there(rng: Random, scene: Scene) -> Exchange:
    shape = _some_shape(rng, scene)
    one = str(shape)
    if rng.random() < 0.25:
        one = shape.form if rng.random() < 0.6 else f"{shape.colour} shape"
    found = any(one in (str(shape), shape.form, f"{shape.colour} shape") for shape in scene.shapes)
    said = worded(rng, _IS_THERE, one=f"a {one}")
    return said, f"Yes, there is a {one}." if found else f"No, there is no {one}."


def _colour_of(rng: Random, scene: Scene) -> Exchange:
    shape = rng.choice(scene.shapes)
    if rng.random() < 0.6 and sum(other.form == shape.form for other in scene.shapes) == 1:
        return worded(rng, _COLOUR_OF, form=shape.form), f"The {shape.form} is {shape.colour}."
    if sum(other.colour == shape.colour for other in scene.shapes) == 1:
        return worded(rng, _FORM_OF, colour=shape.colour), f"The {shape.colour} shape is a {shape.form}."
    return _count_some(rng, scene)


def _where(rng: Random, scene: Scene) -> Exchange:
    shape = rng.choice(scene.shapes)
    one = shape.form if rng.random() < 0.3 else str(shape)
    found = [other for other in scene.shapes if one in (other.form, str(other))]
    if len(found) > 1:
        return _at(rng, scene)
    return worded(rng, _WHERE, one=one), f"The {one} is at the {PLACES[shape.place]}."


def _question_over(rng: Random, scenes: list[Scene]) -> Exchange:
    roll = rng.random()
    if roll < 0.5:
        return _which(rng, scenes)
    if roll < 0.6:
        return worded(rng, _HOW_MANY_IMAGES), f"You showed me {len(scenes)} pictures."
    if roll < 0.85:
        number = rng.randrange(len(scenes))
        return worded(rng, _IN_NUMBER, n=number + 1, nth=_NTH[number]), caption(scenes[number])
    shown = " ".join(f"Picture {number}: {_short(scene)}." for number, scene in enumerate(scenes, 1))
    return worded(rng, _ALL), shown


def _short(scene: Scene) -> str:
    return joined([f"a {shape}" for shape in scene.shapes])


def _which(rng: Random, scenes: list[Scene]) -> Exchange:
    shape = rng.choice(rng.choice(scenes).shapes) if rng.random() < 0.85 else _some_shape(rng, Scene(()))
    numbers = [str(n) for n, scene in enumerate(scenes, 1) if any(str(other) == str(shape) for other in scene.shapes)]
    said = worded(rng, _WHICH, one=f"a {shape}")
    if not numbers:
        return said, f"No picture has a {shape}."
    if len(numbers) == 1:
        return said, f"Picture {numbers[0]} has a {shape}."
    return said, f"Pictures {joined(numbers)} have a {shape}."
