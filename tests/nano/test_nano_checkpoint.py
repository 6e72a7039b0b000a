"""The bundled checkpoint: complete, small, loadable by transformers as it stands, and right on what demos ask."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

import pytest
import torch

from llama4_local.config.reader import read_config
from llama4_local.model.transformer import Model
from llama4_local.nano import CHECKPOINT
from llama4_local.nano.training.data import SKILLS, Sample, mixture, samples
from llama4_local.nano.training.evaluate import answers, are_right, load, measure, wanted_text
from llama4_local.nano.training.folder import chat_template, prompt_template
from llama4_local.nano.training.vocabulary import SPECIALS, VOCABULARY
from llama4sdk.messages import AssistantMessage, Message, Text, UserMessage
from llama4sdk.prompting import PromptTemplate
from llama4sdk.prompting import special_tokens as names
from llama4sdk.prompting.template import image_names
from llama4sdk.request import ToolSpec
from long_runs import often

_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@pytest.fixture(scope="module")
def template() -> PromptTemplate:
    return prompt_template(CHECKPOINT)


def test_the_folder_is_complete_and_small() -> None:
    assert all((CHECKPOINT / name).is_file() for name in _FILES)
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 24_000_000


def test_the_network_is_a_small_llama_4() -> None:
    config = read_config(CHECKPOINT)
    text, vision = config.text, config.vision
    assert vision is not None
    assert text.experts >= 4
    assert all(text.moe_layers)
    assert text.qk_norm
    assert text.rope_layers == tuple(layer % 4 != 3 for layer in range(text.layers))
    for size in (text.hidden_size, text.expert_size, text.vocab_size, vision.hidden_size, vision.mlp_size):
        assert size % 64 == 0
    assert config.max_tiles == 4
    assert vision.image_size == 56


def test_it_has_at_most_twelve_million_parameters() -> None:
    from safetensors import safe_open

    with safe_open(CHECKPOINT / "model.safetensors", framework="np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a dict
    assert sum(int(torch.tensor(shape).prod()) for shape in shapes) < 12_000_000


def test_special_tokens_have_their_published_names(template: PromptTemplate) -> None:
    published = set(names.published_special_tokens())
    assert set(SPECIALS) <= published
    assert set(template.tokenizer.specials) == set(SPECIALS)
    assert template.tokenizer.vocab_size == VOCABULARY


@pytest.mark.parametrize("text", ["Grüße, 你好 🙂!", "\x00\x01 \ud7ff", "a  b\n\n\n\tc", "१२३ สวัสดี", "<|eot|>"])
def test_any_text_can_be_written(template: PromptTemplate, text: str) -> None:
    ids = template.tokenizer.encode(text)
    assert template.tokenizer.decode(ids) == text
    assert not set(ids) & set(template.tokenizer.specials.values())


def test_digits_stand_alone(template: PromptTemplate) -> None:
    assert [template.tokenizer.decode([i]) for i in template.tokenizer.encode("2024")] == ["2", "0", "2", "4"]


def test_a_word_is_the_same_token_everywhere(template: PromptTemplate) -> None:
    word = template.tokenizer.encode("weather")
    for around in ('"weather"', "get_weather", "the weather", "(weather="):
        ids = template.tokenizer.encode(around)
        assert any(ids[i : i + len(word)] == word for i in range(len(ids)))


def test_the_chat_template_in_the_folder_is_the_current_one() -> None:
    assert (CHECKPOINT / "chat_template.jinja").read_text(encoding="utf-8") == chat_template()


def _as_dict(message: Message) -> dict[str, object]:
    found: dict[str, object] = {"role": message.role, "content": message.content}
    if not isinstance(message.content, str):
        found["content"] = [
            {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"}
            for part in message.parts
        ]
    if isinstance(message, AssistantMessage) and message.tool_calls:
        found["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return found


@pytest.mark.filterwarnings("ignore")
def test_transformers_renders_and_encodes_as_prompt_template_does(template: PromptTemplate) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    seen = 0
    for sample in islice(mixture(21), 120):
        if sample.output is not None or sample.choice != "auto":
            continue
        tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in sample.tools
        ]
        rendered = template.render(sample.messages[:-1], sample.tools)
        text = tokenizer.apply_chat_template(
            [_as_dict(message) for message in sample.messages[:-1]],
            tools=tools or None,
            add_generation_prompt=True,
            tokenize=False,
        )
        for tiles in rendered.tiles:
            shown = "".join(image_names(tiles.rows, tiles.cols, 4)).replace("<|image|>", "\0")
            text = text.replace("<|image|>", shown, 1)
        text = text.replace("\0", "<|image|>")
        assert text == rendered.text
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == rendered.token_ids
        seen += 1
    assert seen > 80


@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_the_configs() -> None:
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(CHECKPOINT)
    assert config.model_type == "llama4"
    generation = GenerationConfig.from_pretrained(CHECKPOINT)
    assert len(generation.eos_token_id) == 3
    assert not generation.do_sample


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return json.loads((CHECKPOINT / "evaluation.json").read_text(encoding="utf-8"))


def test_the_measured_accuracy_is_bundled_and_reaches_the_goal(measured: dict[str, Any]) -> None:
    assert measured["samples"] >= 300
    assert set(measured["accuracy"]) == set(SKILLS)
    assert all(0.95 <= share <= 1 for share in measured["accuracy"].values())


def test_the_card_states_the_measured_accuracy(measured: dict[str, Any]) -> None:
    card = (CHECKPOINT.parent / "README.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| ([a-z ]+) \| (\d+\.\d)% \|$", card, re.MULTILINE))
    assert stated == {skill: f"{share * 100:.1f}" for skill, share in measured["accuracy"].items()}


@pytest.fixture(scope="module")
def loaded() -> tuple[Model, PromptTemplate]:
    return load(CHECKPOINT)


def _dialog(*turns: str, tools: tuple[ToolSpec, ...] = ()) -> Sample:
    said = [UserMessage(turn) if place % 2 == 0 else AssistantMessage(turn) for place, turn in enumerate(turns)]
    return Sample("", (*said, AssistantMessage("")), "", tools)


_WEATHER = ToolSpec(
    "get_weather",
    "Get the weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
_ASKED = {
    "Hello! How can I help you?": _dialog("Hello!"),
    "17 + 25 = 42.": _dialog("What is 17 + 25?"),
    "The capital of France is Paris.": _dialog("What is the capital of France?"),
    "Your name is Ada.": _dialog("My name is Ada.", "Nice to meet you, Ada!", "What is my name?"),
    "I am nano, the small model that is built into llama4sdk.": _dialog("Who are you?"),
    "De rien !": _dialog("Merci !"),
    "3, 4, 5, 6, 7, 8, 9, 10, 11, 12.": _dialog("Count from 3 to 12."),
    '[get_weather(city="Paris")]': _dialog("What is the weather in Paris?", tools=(_WEATHER,)),
}


def test_what_demos_ask_is_answered_right(loaded: tuple[Model, PromptTemplate]) -> None:
    assert answers(*loaded, list(_ASKED.values())) == list(_ASKED)


@pytest.mark.parametrize("skill", SKILLS)
def test_new_samples_are_answered_right(loaded: tuple[Model, PromptTemplate], skill: str) -> None:
    asked = often(20, 40)
    right, _ = measure(*loaded, skill, asked, seed=22)
    assert right >= 0.95, f"{skill}: {right:.1%} of {asked}"


def test_one_pass_judges_as_writing_the_answer_does(loaded: tuple[Model, PromptTemplate]) -> None:
    asked = [
        *islice(samples(31, "arithmetic", "test"), often(4, 10)),
        *islice(samples(31, "pictures", "test"), often(2, 5)),
    ]
    written = answers(*loaded, asked)
    expected = [text == wanted_text(sample) for text, sample in zip(written, asked, strict=True)]
    assert are_right(*loaded, asked) == expected


@pytest.mark.filterwarnings("ignore")
def test_transformers_computes_the_same(loaded: tuple[Model, PromptTemplate]) -> None:
    from transformers import Llama4ForConditionalGeneration

    from llama4_local.model.transformer import logits
    from llama4_local.nano.training.forward import training_forward

    model, template = loaded
    theirs = Llama4ForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    ids = torch.tensor([template.render("What is 17 + 25?").token_ids])
    with torch.no_grad():
        ours = logits(model, training_forward(model, ids, torch.tensor([ids.shape[1]]))[0])
        torch.testing.assert_close(theirs(input_ids=ids).logits[0], ours, atol=1e-4, rtol=1e-4)
