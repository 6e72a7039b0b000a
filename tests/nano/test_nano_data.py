"""The data that nano learns from: repeatable, right, and with test samples that training never meets."""

from __future__ import annotations

import ast
import json
import re
from itertools import islice
from random import Random

import pytest

from llama4_local.nano.training.data import SKILLS, Sample, mixture, samples
from llama4_local.nano.training.data.arithmetic import stated
from llama4_local.nano.training.data.capitals import CAPITALS, UNKNOWN, forward_answer
from llama4_local.nano.training.data.greetings import LANGUAGES
from llama4_local.nano.training.data.sample import split_of
from llama4_local.nano.training.data.scenes import caption, description
from llama4_local.nano.training.evaluate import wanted_text
from llama4_local.nano.training.images import COLOURS, PLACES, SHAPES, Scene, Shape, draw, random_scene
from llama4sdk.messages import AssistantMessage
from llama4sdk.models import LANGUAGES as SUPPORTED
from llama4sdk.request import Request


def _texts(sample: Sample) -> list[str]:
    return [wanted_text(sample), *(message.text for message in sample.messages)]


@pytest.mark.parametrize("skill", SKILLS)
def test_the_same_seed_gives_the_same_samples(skill: str) -> None:
    first, second = (list(map(_texts, islice(samples(3, skill), 5))) for _ in range(2))
    assert first == second
    assert first != list(map(_texts, islice(samples(4, skill), 5)))


@pytest.mark.parametrize("skill", SKILLS)
def test_training_never_meets_what_is_kept_for_tests(skill: str) -> None:
    seen = {sample.key for sample in islice(samples(1, skill), 40)}
    kept = {sample.key for sample in islice(samples(1, skill, "test"), 10)}
    assert not seen & kept
    assert all(split_of(key) == "test" for key in kept)


@pytest.mark.parametrize("skill", SKILLS)
def test_every_sample_is_a_request_that_ends_with_the_answer(skill: str) -> None:
    for sample in islice(samples(8, skill), 30):
        assert sample.skill == skill
        assert isinstance(sample.messages[-1], AssistantMessage)
        assert wanted_text(sample)
        Request(sample.messages[:-1], tools=sample.tools, tool_choice=sample.choice, output=sample.output)


def test_the_mixture_holds_every_skill() -> None:
    assert {sample.skill for sample in islice(mixture(0), 400)} == set(SKILLS)


def test_a_pair_of_numbers_and_its_mirror_image_are_in_the_same_split() -> None:
    kept = [sample for sample in islice(samples(2, "arithmetic", "test"), 30) if len(sample.messages) == 2]
    for sample in kept:
        equation = re.match(r"(\d+) ([+-]) (\d+) = (-?\d+)\.", sample.answer.text)
        assert equation
        a, op, b, result = int(equation[1]), equation[2], int(equation[3]), int(equation[4])
        assert result == (a + b if op == "+" else a - b)
        key = f"{min(a, b)}+{max(a, b)}" if op == "+" else f"{a}-{b}"
        assert split_of(key) == "test"


def test_results_may_be_negative() -> None:
    assert stated(17, "-", 25) == "17 - 25 = -8."


def test_forty_capitals_and_an_honest_answer_for_the_rest() -> None:
    assert len(CAPITALS) == 40
    assert forward_answer("France") == "The capital of France is Paris."
    assert forward_answer("Wakanda") == UNKNOWN


def test_greetings_come_in_the_languages_of_llama_4() -> None:
    assert LANGUAGES == SUPPORTED


def test_calls_use_declared_functions_and_parameters() -> None:
    for sample in islice(samples(5, "tool calls"), 60):
        declared = {tool.name: tool.parameters for tool in sample.tools}
        for call in sample.answer.tool_calls:
            parameters = declared[call.name]
            assert set(call.arguments) <= set(parameters["properties"])
            assert set(parameters.get("required", ())) <= set(call.arguments)


def test_calls_are_written_as_python() -> None:
    for sample in islice(samples(6, "tool calls"), 40):
        text = wanted_text(sample)
        tree = ast.parse(re.sub(r"([a-z])\.([a-z]\w*)\(", r"\1_\2(", text), mode="eval").body
        assert isinstance(tree, ast.List)
        for call, wanted in zip(tree.elts, sample.answer.tool_calls, strict=True):
            assert isinstance(call, ast.Call)
            values = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
            assert values == wanted.arguments


def test_json_answers_have_the_fields_of_their_schema() -> None:
    for sample in islice(samples(7, "json answers"), 60):
        answer = json.loads(sample.answer.text)
        if sample.output is not None:
            assert list(answer) == sample.output.schema["required"]


def test_two_tools_for_one_subject_are_never_declared_together() -> None:
    for sample in islice(samples(9, "tool calls"), 80):
        weather = [tool.name for tool in sample.tools if "weather" in tool.description.lower()]
        assert len(weather) <= 1


def test_images_are_described_in_reading_order() -> None:
    scene = Scene((Shape("red", "circle", 0), Shape("blue", "square", 8)))
    assert caption(scene) == "A red circle and a blue square."
    assert description(scene) == "The picture shows a red circle at the top left and a blue square at the bottom right."


def test_images_have_any_size_and_shape() -> None:
    rng = Random(1)
    sizes = {draw(rng, random_scene(rng)).size for _ in range(30)}
    assert len(sizes) > 25
    assert any(width > 1.5 * height for width, height in sizes)
    assert any(height > 1.5 * width for width, height in sizes)


def test_the_same_seed_draws_the_same_image_grain_included() -> None:
    for seed in range(60):
        first, second = (draw(rng, random_scene(rng)) for rng in (Random(seed), Random(seed)))
        assert first.tobytes() == second.tobytes()


def test_shapes_lie_where_the_scene_says() -> None:
    rng = Random(2)
    for place in range(len(PLACES)):
        image = draw(rng, Scene((Shape("black", "circle", place),)))
        width, height = image.size
        points = [(x, y) for x in range(width) for y in range(height) if sum(image.getpixel((x, y))[:3]) < 150]  # pyright: ignore
        x, y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
        assert [_third(x / width), _third(y / height)] == [place % 3, place // 3]


def _third(share: float) -> int:
    return 0 if share < 0.4 else 1 if share < 0.6 else 2


def test_scenes_have_one_to_four_shapes_in_different_places() -> None:
    rng = Random(3)
    scenes = [random_scene(rng) for _ in range(200)]
    assert {len(scene.shapes) for scene in scenes} == {1, 2, 3, 4}
    assert {shape.colour for scene in scenes for shape in scene.shapes} == set(COLOURS)
    assert {shape.form for scene in scenes for shape in scene.shapes} == set(SHAPES)
    assert all(len({shape.place for shape in scene.shapes}) == len(scene.shapes) for scene in scenes)


def test_questions_of_a_demo_are_not_kept_for_tests() -> None:
    for key in ("Hello!", "Hi!", "17+25", "What is the capital of France?", "Thank you!", "Tell me about yourself."):
        assert split_of(key) == "train"
