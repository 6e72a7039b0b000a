"""The two file forms, the cache, and files that make no tokenizer."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

import small_tokenizers as small
from llama4sdk.errors import CheckpointError
from llama4sdk.prompting import engine, tokenizer_cache
from llama4sdk.prompting.tokenizer import Tokenizer

TEXT = "hello world, hello aaaa"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder of its own for the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llama4sdk" / "tokenizers"


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(small.rank_file())
    return file


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often an engine is built from ranks."""
    counted: list[int] = []
    build = engine.build_engine

    def counting(ranks: dict[bytes, int]) -> object:
        counted.append(len(ranks))
        return build(ranks)

    monkeypatch.setattr(engine, "build_engine", counting)
    return counted


def test_both_files_give_the_same_tokens(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(small.json_file(first=1000))
    from_json = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert from_json.encode(TEXT) == Tokenizer.from_file(model_file, cache=False).encode(TEXT)


def test_a_folder_is_searched_for_its_tokenizer(tmp_path: Path, model_file: Path) -> None:
    assert Tokenizer.from_file(tmp_path, cache=False).special("<|eot|>") == len(small.ranks()) + 8
    (tmp_path / "tokenizer.json").write_bytes(small.json_file())
    assert Tokenizer.from_file(tmp_path, cache=False).special("<|eot|>") == 1


def test_the_fingerprint_is_the_sha256_of_the_file(model_file: Path) -> None:
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert Tokenizer.from_file(str(model_file), cache=False).fingerprint == digest


def test_an_engine_is_built_once_and_then_read_from_the_cache(cache: Path, model_file: Path, builds: list[int]) -> None:
    first = Tokenizer.from_file(model_file)
    second = Tokenizer.from_file(model_file)
    assert len(builds) == 1
    assert [file.name for file in cache.iterdir()] == [f"{first.fingerprint}-v1.json"]
    assert first.encode(TEXT) == second.encode(TEXT)
    assert first.specials == second.specials


@pytest.mark.usefixtures("cache")
def test_another_file_is_not_taken_for_the_cached_one(model_file: Path, builds: list[int]) -> None:
    Tokenizer.from_file(model_file)
    token = base64.b64encode(b"world").decode()
    model_file.write_bytes(small.rank_file() + f"{token} {len(small.ranks())}\n".encode())
    changed = Tokenizer.from_file(model_file)
    assert len(builds) == 2
    assert changed.encode("world") == [len(small.ranks())]


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "a folder", "not UTF-8"])
def test_a_broken_cache_is_built_anew(cache: Path, model_file: Path, builds: list[int], damage: str) -> None:
    expected = Tokenizer.from_file(model_file).encode(TEXT)
    (kept,) = cache.iterdir()
    data = kept.read_bytes()
    kept.unlink()
    if damage == "a folder":
        kept.mkdir()
    else:
        changed = data.replace(b'"hell":', b'"jell":')
        assert changed != data
        kept.write_bytes({"empty": b"", "cut": data[:-100], "changed": changed, "not UTF-8": data + b"\xff"}[damage])
    assert Tokenizer.from_file(model_file).encode(TEXT) == expected
    assert len(builds) == 2


def test_a_cache_that_cannot_be_written_never_fails_the_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_file: Path
) -> None:
    (tmp_path / "occupied").write_text("a file where the cache folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    assert Tokenizer.from_file(model_file).encode("hello") == [small.ranks()[b"hello"]]


def test_no_half_written_file_stays_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, cache: Path, model_file: Path
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    Tokenizer.from_file(model_file)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({"XDG_CACHE_HOME": "/somewhere"}, "linux", "/somewhere/llama4sdk/tokenizers"),
        ({"XDG_CACHE_HOME": "relative"}, "linux", "HOME/.cache/llama4sdk/tokenizers"),
        ({}, "linux", "HOME/.cache/llama4sdk/tokenizers"),
        ({}, "darwin", "HOME/Library/Caches/llama4sdk/tokenizers"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/llama4sdk/tokenizers"),
        ({}, "win32", "HOME/AppData/Local/llama4sdk/tokenizers"),
    ],
)
def test_the_cache_stands_where_the_platform_keeps_caches(
    environ: dict[str, str], platform: str, expected: str
) -> None:
    folder = tokenizer_cache.cache_folder(environ, platform)
    assert folder == Path(expected.replace("HOME", str(Path.home())))


def test_without_a_home_folder_nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert tokenizer_cache.cache_folder({}, "linux") is None
    assert tokenizer_cache.load(None, "0" * 64) is None
    tokenizer_cache.store(None, "0" * 64, "{}")


def line(token: bytes, rank: object) -> bytes:
    return base64.b64encode(token) + f" {rank}\n".encode()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "single bytes have no token"),
        (b"\xff\xfe\x00", "line 1 is not"),
        (small.rank_file() + b"no-base64! 300\n", "line 270 is not"),
        (small.rank_file() + line(b"xy", "many"), "line 270 is not"),
        (small.rank_file() + line(b"xy", "9" * 5000), "line 270 is not"),
        (small.rank_file() + line(b"xy", 300), "numbers from 0 on"),
        (small.rank_file() + line(b"xy", 3), "numbers from 0 on"),
        (line(b"a", 0), "255 of the 256 single bytes"),
        (b"{", "not a tokenizer.json"),
        (b"{}", "not a tokenizer.json"),
        (b'{"model": "\xff"}', "not UTF-8"),
    ],
)
def test_a_file_that_makes_no_tokenizer_is_a_checkpoint_error(data: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        Tokenizer.from_bytes(data, cache=False)


def test_a_file_of_nonsense_reports_no_more_than_a_page() -> None:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_bytes(b"nonsense\n" * 100_000, cache=False)
    assert len(caught.value.problems) <= 20


def test_a_tokenizer_that_is_not_byte_level_bpe_is_refused() -> None:
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models

    words = Engine(models.WordLevel({"a": 0}, unk_token="a"))
    pieces = Engine(models.BPE({"a": 0}, []))
    pieces.decoder = decoders.Metaspace()
    for other in (words, pieces):
        with pytest.raises(CheckpointError, match="not byte-level BPE"):
            Tokenizer.from_bytes(other.to_str().encode(), cache=False)


def test_a_file_that_is_not_there_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read nothing\.json"):
        Tokenizer.from_file(tmp_path / "nothing.json")
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        Tokenizer.from_file(tmp_path)


def test_truncation_padding_and_templates_of_a_file_do_not_touch_the_ids() -> None:
    tree = json.loads(small.json_file())
    tree["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tree["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|begin_of_text|>",
    }
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            "<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [0], "tokens": ["<|begin_of_text|>"]}
        },
    }
    plain = Tokenizer.from_bytes(small.json_file(), cache=False).encode(TEXT)
    assert Tokenizer.from_bytes(json.dumps(tree).encode(), cache=False).encode(TEXT) == plain
    assert len(plain) > 2


def test_special_tokens_that_share_an_id_with_others_are_refused() -> None:
    tree = json.loads(small.json_file())
    tree["added_tokens"][0]["id"] = 100
    with pytest.raises(CheckpointError, match="has the id of an ordinary one"):
        Tokenizer.from_bytes(json.dumps(tree).encode(), cache=False)
    tree["added_tokens"][0]["id"] = tree["added_tokens"][1]["id"]
    with pytest.raises(CheckpointError, match="two added tokens share"):
        Tokenizer.from_bytes(json.dumps(tree).encode(), cache=False)
