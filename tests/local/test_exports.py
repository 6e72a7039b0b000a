"""Checkpoints as training tools and releases of transformers save them: other names, extra tensors, other configs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama4_local import LocalBackend
from llama4_local.checkpoint.headers import INDEX_FILE, SINGLE_FILE
from llama4_local.checkpoint.network import read_network
from llama4_local.nano import CHECKPOINT
from llama4_local.planning.models import find_model
from llama4sdk import Llama4, Sampling
from llama4sdk.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
Json = dict[str, Any]
EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"


def renamed(tensors: Tensors, name_of: Callable[[str], str]) -> Tensors:
    return {name_of(name): tensor for name, tensor in tensors.items()}


def as_transformers_4_52(name: str) -> str:
    """`model.language_model.layers…`, `lm_head`, `model.vision_model…`."""
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return name.removeprefix("language_model.") if "lm_head" in name else f"model.{name}"


def decoder(tensors: Tensors) -> Tensors:
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("language_model.")}
    return renamed(own, lambda name: name.removeprefix("language_model."))


def exported(folder: Path, tensors: Callable[[Tensors], Tensors], config: Callable[[Json], Json] | None = None) -> Path:
    """Save nano as another tool does."""
    shutil.copytree(CHECKPOINT, folder)
    whole = tensors(load_file(folder / SINGLE_FILE))
    (folder / SINGLE_FILE).unlink()
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, folder / SINGLE_FILE)
    changed_json(folder / "config.json", config or (lambda content: content))
    return folder


def changed_json(path: Path, change: Callable[[Json], Json]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


async def answer(folder: Path, **options: Any) -> str:
    async with Llama4(LocalBackend(folder, **options)) as llama:
        return (await llama.chat("What is 17 + 25?", sampling=Sampling(max_tokens=40))).text


def text_config(content: Json) -> Json:
    return content["text_config"] | {"architectures": ["Llama4ForCausalLM"]}


def with_buffers(tensors: Tensors) -> Tensors:
    return tensors | {
        "language_model.model.rotary_emb.inv_freq": torch.ones(8),
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "vision_model.rotary_embedding.freqs_ci": torch.ones(4, 4),
        "language_model.model.layers.0.self_attn.q_proj.input_scale": torch.ones(1),
    }


def padded(tensors: Tensors) -> Tensors:
    """64 rows more, which would win every comparison if they were sampled."""
    more = 64
    head, embedding = tensors[HEAD], tensors[EMBEDDING]
    return tensors | {
        HEAD: torch.cat([head, head.mean(0).repeat(more, 1) * 50, -head.mean(0).repeat(more, 1) * 50]),
        EMBEDDING: torch.cat([embedding, embedding[: 2 * more]]),
    }


def nested_rope(content: Json) -> Json:
    text = content["text_config"]
    rope = {"rope_theta": text.pop("rope_theta", 500_000.0), "rope_type": "default"}
    scaling = text.pop("rope_scaling", None) or text.pop("rope_parameters", None) or {}
    text["rope_parameters"] = {"chunked_attention": rope | scaling, "full_attention": {"rope_type": "default"}}
    return content


def of_type(content: Json) -> Json:
    text = content["text_config"]
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if scaling:
        text["rope_scaling"] = {("type" if key == "rope_type" else key): value for key, value in scaling.items()}
    return content


def same(content: Any) -> Any:
    return content


EXPORTS: dict[str, tuple[Callable[[Tensors], Tensors], Callable[[Json], Json]]] = {
    "as published": (same, same),
    "transformers 4.52": (lambda t: renamed(t, as_transformers_4_52), same),
    "wrapped twice": (lambda t: renamed(t, lambda name: f"model.{name}"), same),
    "distributed": (lambda t: renamed(t, lambda name: f"module.{name}"), same),
    "compiled": (lambda t: renamed(t, lambda name: f"_orig_mod.{name.replace('layers.', 'layers._orig_mod.')}"), same),
    "peft": (lambda t: renamed(t, lambda name: f"base_model.model.{name}"), same),
    "text only": (decoder, text_config),
    "text config over all names": (same, text_config),
    "whole config over the decoder": (decoder, same),
    "buffers": (with_buffers, same),
    "padded vocabulary": (padded, same),
    "nested rope parameters": (same, nested_rope),
    "rope_scaling of a type": (same, of_type),
}


@pytest.mark.parametrize("export", EXPORTS)
async def test_an_export_answers_as_the_published_form_does(tmp_path: Path, export: str):
    assert "42" in await answer(exported(tmp_path / "export", *EXPORTS[export]))


async def test_the_index_decides_where_an_overlay_holds_a_tensor_again(tmp_path: Path):
    folder = exported(tmp_path / "overlay", same)
    whole = load_file(folder / SINGLE_FILE)
    (folder / SINGLE_FILE).unlink()
    stale = whole | {HEAD: torch.zeros_like(whole[HEAD])}
    save_file(stale, folder / "base.safetensors")
    save_file({HEAD: whole[HEAD]}, folder / "overlay.safetensors")
    shards = dict.fromkeys(whole, "base.safetensors") | {HEAD: "overlay.safetensors"}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": shards}))
    assert "42" in await answer(folder)


def test_a_tied_embedding_is_the_head(tmp_path: Path):
    def without_head(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if name != HEAD}

    folder = exported(tmp_path / "tied", without_head, lambda content: content | {"tie_word_embeddings": True})
    network = read_network(folder)
    assert network.tensors[HEAD].key == network.tensors[EMBEDDING].key
    LocalBackend(folder)


def test_two_names_of_one_tensor_are_refused(tmp_path: Path):
    folder = exported(tmp_path / "twice", lambda t: t | {f"model.{HEAD}": t[HEAD].clone()})
    with pytest.raises(CheckpointError, match="the same tensor"):
        read_network(folder)


def test_an_adapter_alone_is_named_as_such(tmp_path: Path):
    folder = exported(tmp_path / "adapter", same)
    (folder / SINGLE_FILE).unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        read_network(folder)


def test_a_plan_counts_the_network_that_is_there(tmp_path: Path):
    _, config = find_model(exported(tmp_path / "text", decoder))
    assert config.vision is None


async def test_the_stop_tokens_of_the_vocabulary_always_stop(tmp_path: Path):
    folder = exported(tmp_path / "stops", same, lambda content: content | {"eos_token_id": None})
    changed_json(folder / "generation_config.json", lambda _: {"do_sample": False})
    text = await answer(folder)
    assert "42" in text
    assert "<|" not in text


async def test_max_new_tokens_of_the_checkpoint_ends_answers(tmp_path: Path):
    folder = exported(tmp_path / "short", same)
    changed_json(folder / "generation_config.json", lambda content: content | {"max_new_tokens": 1})
    async with Llama4(LocalBackend(folder)) as llama:
        reply = await llama.chat("What is 17 + 25?")
        assert reply.usage.completion_tokens == 1
        assert reply.finish_reason == "length"
        longer = await llama.chat("What is 17 + 25?", sampling=Sampling(max_tokens=40))
        assert "42" in longer.text


@pytest.mark.parametrize("place", ["generation", "top", "text"])
def test_stop_tokens_are_looked_for_in_three_places(tmp_path: Path, place: str):
    folder = exported(tmp_path / "place", same)
    changed_json(folder / "generation_config.json", lambda _: {"eos_token_id": 7} if place == "generation" else {})

    def placed(content: Json) -> Json:
        if place == "top":
            content["eos_token_id"] = [7]
        elif place == "text":
            content["text_config"]["eos_token_id"] = 7
        return content

    changed_json(folder / "config.json", placed)
    assert read_network(folder).config.generation.eos_token_ids == (7,)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 40, "min_p": 0.05}, {"temperature": 0.6, "top_k": 40}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"repetition_penalty": 1.1, "max_new_tokens": 9}, {"repetition_penalty": 1.1, "max_tokens": 9}),
    ],
)
def test_the_checkpoint_s_defaults_are_those_of_transformers(tmp_path: Path, content: Json, expected: Json):
    folder = exported(tmp_path / "defaults", same)
    changed_json(folder / "generation_config.json", lambda _: content)
    generation = read_network(folder).config.generation
    assert {name: getattr(generation, name) for name in expected} == expected


@pytest.mark.parametrize("ratio", [2, 1e-310, 0.3, 1e300, 1e-9])
def test_a_pixel_shuffle_that_joins_no_patches_is_refused(tmp_path: Path, ratio: float):
    def ratioed(content: Json) -> Json:
        content["vision_config"]["pixel_shuffle_ratio"] = ratio
        return content

    with pytest.raises(CheckpointError, match="pixel_shuffle_ratio"):
        read_network(exported(tmp_path / "shuffle", same, ratioed))
