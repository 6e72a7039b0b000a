"""Folders in other forms than the one that is read: each is named, with the way from there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama4_local.checkpoint.chat_template import read_chat_template
from llama4_local.checkpoint.headers import INDEX_FILE, SINGLE_FILE, find_tensors
from llama4_local.checkpoint.names import published
from llama4_local.checkpoint.network import read_network
from llama4_local.config.options import Options
from llama4_local.config.reader import read_config
from llama4_local.serving.prepare import check_prompt
from llama4_local.serving.readiness import inspect_checkpoint
from llama4sdk.errors import CheckpointError, InvalidRequest
from llama4sdk.prompting import Tokenizer
from local.small_backends import chatting, saved_chat, tokenizer_file

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4999802720\n"


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "merge_and_unload"),
        (["adapter_model.bin"], "merge_and_unload"),
        (["latest", "global_step10", "zero_to_fp32.py"], "zero_to_fp32.py"),
        (["pytorch_model_fsdp_0"], "accelerate merge-weights"),
        (["__0_0.distcp", ".metadata"], "accelerate merge-weights"),
        (["model-Q4_K_M.gguf"], "GGUF"),
        (["model.safetensors.incomplete"], "not complete"),
        (["model-00001-of-00002.safetensors"], "copy it from where"),
        (["consolidated.safetensors"], "another form"),
        (["tf_model.h5"], "tf_model.h5 is of a form that is not read"),
        (["model.onnx"], "model.onnx is of a form"),
        (["pytorch_model-00001-of-00002.bin"], "is a pickle"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_another_form_is_named_with_the_way_from_there(
    tmp_path: Path, names: list[str], way: str, with_config: bool
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=way):
        find_tensors(tmp_path) if with_config else read_config(tmp_path)


def test_a_model_in_a_folder_below_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-200").mkdir()
    (tmp_path / "checkpoint-200" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="checkpoint-200"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["config.json", SINGLE_FILE, INDEX_FILE])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(LFS)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_config(tmp_path) if name == "config.json" else find_tensors(tmp_path)


def test_a_tokenizer_that_is_a_pointer_of_git_lfs_is_named() -> None:
    with pytest.raises(CheckpointError, match="git lfs pull"):
        Tokenizer.from_bytes(LFS)


def test_a_tokenizer_json_is_judged_as_one_whatever_it_holds() -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json|not a tokenizer\.json"):
        Tokenizer.from_bytes(b"<html>", name="tokenizer.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_byte_order_mark_harms_nothing(tmp_path: Path, name: str) -> None:
    folder = saved_chat(tmp_path / "model")
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert inspect_checkpoint(folder, Options(), None).context


def linked_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, linked_to_a_device])
def test_an_index_that_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / INDEX_FILE)
    with pytest.raises(CheckpointError, match="no regular file"):
        find_tensors(tmp_path)


def test_a_link_to_a_generation_config_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path / "model")
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to("gone")
    with pytest.raises(CheckpointError, match="generation_config"):
        read_config(folder)


@pytest.mark.parametrize("name", ["x" * 300 + ".safetensors", "\ud800.safetensors"])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="not a plain") as caught:
        find_tensors(tmp_path)
    str(caught.value).encode()


@pytest.mark.parametrize("part", ["lora_A.default", "base_layer", "modules_to_save.default"])
def test_an_adapter_among_its_base_model_is_named(part: str) -> None:
    problems: list[str] = []
    names: dict[str, Any] = {f"model.layers.0.self_attn.q_proj.{part}.weight": None}
    assert not published(names, multimodal=True, tied=False, problems=problems)
    assert "merge_and_unload" in problems[0]


def edited(path: Path, edit: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_without_a_config_of_the_encoder_text_is_served(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path / "model")
    edited(folder / "config.json", lambda config: config.update(vision_config=None))
    assert read_network(folder).config.vision is None


def test_a_tokenizer_of_another_model_is_refused_at_start(tmp_path: Path) -> None:
    folder = saved_chat(tmp_path / "model", chatting())
    (folder / "tokenizer.json").write_bytes(tokenizer_file().replace(b"<|eot|>", b"<|eot_id|>"))
    with pytest.raises(CheckpointError, match=r"the tokenizer has no <\|eot\|>"):
        inspect_checkpoint(folder, Options(), None)


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("text", "text"),
        ([1, None, {"name": "default", "template": "text"}], "text"),
        ({"default": "text", "tool_use": "other"}, "text"),
        ([1, None], None),
        (5, None),
        ({"default": 5}, None),
    ],
)
def test_chat_templates_are_read_in_each_form_that_was_written(
    tmp_path: Path, value: object, source: str | None
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    if source is not None:
        assert read_chat_template(tmp_path) == source
        return
    with pytest.raises(CheckpointError, match="no chat template"):
        read_chat_template(tmp_path)


def test_a_tokenizer_config_nested_beyond_reason_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(CheckpointError, match="RecursionError"):
        read_chat_template(tmp_path)


def test_a_prompt_without_tokens_is_refused_in_words(tmp_path: Path) -> None:
    served = inspect_checkpoint(saved_chat(tmp_path / "model"), Options(), None)
    with pytest.raises(InvalidRequest, match="The prompt is empty"):
        check_prompt([], (), served)
