"""Files that would abort the process, panic, or lose a part of the prompt; and words that fine-tunes add."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from llama4sdk.errors import CheckpointError
from llama4sdk.prompting import Tokenizer
from small_tokenizers import json_file

Json = dict[str, Any]


def tokenizer_of(change: Callable[[Json], object]) -> Tokenizer:
    tree = json.loads(json_file())
    change(tree)
    return Tokenizer.from_bytes(json.dumps(tree).encode(), cache=False)


def of_model(**fields: object) -> Callable[[Json], object]:
    return lambda tree: tree["model"].update(fields)


def split(pattern: object, behavior: str = "Isolated") -> Callable[[Json], object]:
    step = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return lambda tree: tree.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [step, last]})


def normalized(part: object) -> Callable[[Json], object]:
    return lambda tree: tree.update(normalizer=part)


HOSTILE: dict[str, Callable[[Json], object]] = {
    "continuing_subword_prefix": of_model(continuing_subword_prefix="##" * 1000),
    "end_of_word_suffix": of_model(end_of_word_suffix="</w>"),
    "unknown token": of_model(unk_token="<unk>"),
    "dropout": of_model(dropout=0.9),
    "huge id": lambda tree: tree["model"]["vocab"].update(far=2**31),
    "negative id": lambda tree: tree["model"]["vocab"].update(far=-1),
    "shared id": lambda tree: tree["model"]["vocab"].update(far=tree["model"]["vocab"]["a"]),
    "no vocabulary": of_model(vocab=[]),
    "missing bytes": lambda tree: tree["model"]["vocab"].pop("ð"),
    "growing normalizer": normalized({"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000}),
    "garbage charsmap": normalized({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "strip": normalized({"type": "Strip", "strip_left": True, "strip_right": True}),
    "nested quantifiers": split({"Regex": "(a+)+$"}),
    "backtracking": split({"Regex": "(.*)*b"}),
    "zero-length split": split({"String": ""}),
    "no pattern": split({"Regex": ""}),
    "broken pattern": split({"Regex": "("}),
    "removing split": split({"Regex": " "}, "Removed"),
    "prefix space": lambda tree: tree.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}),
    "no pre-tokenizer": lambda tree: tree.update(pre_tokenizer=None),
    "unknown post-processor": lambda tree: tree.update(post_processor={"type": "RobertaProcessing"}),
    "added without an id": lambda tree: tree["added_tokens"].append({"content": "x"}),
    "added far away": lambda tree: tree["added_tokens"].append({"content": "x", "id": 2**40, "special": True}),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_file_is_a_checkpoint_error(hostile: str):
    with pytest.raises(CheckpointError):
        tokenizer_of(HOSTILE[hostile])


GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SOUND = [
    GPT_2,
    LLAMA_3,
    POSSESSIVE,
    r"\s+",
    r"\p{N}{1,3}",
    "[0-9]",
    r" ?\p{L}+| ?\p{N}+|[^\p{L}\p{N}]",
    r"(?:ab|c) ?\d*",
]
ENDLESS = [
    *(r"(a+)+b", r"(?:a+)+b", r"(a|a)+b", r"(x+x+)+y", r"(?=(a+)+b)a", r"(a*)*b", r"(.*,){8}P", r"(?:\p{L}|\p{Lu})+\d"),
    *(r"a*a*a*b", r"\S*\S*Q", r"(a?){28}a{28}", "a?" * 28 + "a" * 28, r"(a)\1+", r"(?<=a+)b", r"\g<0>", r"(?~ab)c*d"),
    *(r"[a[b]]*c", r"(?:a|b|ab)*c", r"x{0,999}x{0,999}y", r"\w+\d", r"(?i:a+b)?", r"a+?b", r"(?>a+)b", "a||b", "(?R)"),
    *(r"\X+a", r"\s+(?!.)", r"a{2,}b", r"(?:a?b?)?c+d", r"a+(?=b)", r"a{3,}{4,}b", r"(?x) a # (", r"(?#c)a", r"\Qa+\E"),
    r"\s*[\r\n]+",
]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_pattern_that_backtracks_is_refused_before_any_text(pattern: str):
    with pytest.raises(CheckpointError, match="without end"):
        tokenizer_of(split({"Regex": f"{pattern}|."}))


@pytest.mark.parametrize("pattern", SOUND)
def test_patterns_of_other_models_are_read(pattern: str):
    text = "Hello WORLD's 12345   tabs\t\n\n -- ok? " * 3
    tokenizer = tokenizer_of(split({"Regex": pattern}))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("char", ["a", "A", " ", "!", "\n", "é", "Aa", " !", "a'"])
def test_patterns_that_are_read_take_time_that_grows_with_the_text(char: str):
    for pattern in SOUND:
        tokenizer = tokenizer_of(split({"Regex": pattern}))
        begun = time.process_time()
        tokenizer.encode(char * (40_000 // len(char)))
        assert time.process_time() - begun < 3


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model":' * 100_000, "{", '{"model": 1}'])
def test_a_file_that_is_no_tree_is_a_checkpoint_error(text: str):
    with pytest.raises(CheckpointError):
        Tokenizer.from_bytes(b"{" + text.encode(), cache=False)


def test_a_post_processor_that_drops_the_text_is_not_run():
    drops = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    tokenizer = tokenizer_of(lambda tree: tree.update(post_processor=drops))
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"


def added(content: str, token_id: int, *, special: bool) -> Json:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": special, **flags}


@pytest.mark.parametrize("far", [False, True])
def test_added_words_encode_as_transformers_encodes_them(tmp_path: Path, far: bool):
    tree = json.loads(json_file())
    size = len(tree["model"]["vocab"]) + len(tree["added_tokens"])
    words = {"<tool>": size + 7 * far, "é ü": size + 1 + 7 * far}
    tree["added_tokens"] += [added(word, token_id, special=False) for word, token_id in words.items()]
    tokenizer = Tokenizer.from_bytes(json.dumps(tree).encode(), cache=False)
    text = "hello<tool> world é ü aaaa<tool"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert set(words.values()) < set(ids)
    if not far:  # the library numbers words behind a gap anew
        (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
        oracle = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
        assert ids == oracle.encode(text, add_special_tokens=False)


def test_a_special_token_stays_out_of_texts_however_it_is_marked():
    tree = json.loads(json_file(special=False))
    tokenizer = Tokenizer.from_bytes(json.dumps(tree).encode(), cache=False)
    assert tokenizer.special("<|eot|>") not in tokenizer.encode("hello<|eot|>")
