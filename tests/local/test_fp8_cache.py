"""`cache_dtype="fp8"`: keys and values kept in e4m3, through every part of the runtime on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama4_local import LocalBackend, plan, score
from llama4_local.cache.kv_cache import KvCache, LayerCache
from llama4_local.cache.page_table import CacheShape, PageCopy
from llama4_local.cache.sizing import cache_shape
from llama4_local.checkpoint.sealed_file import read_sealed, write_sealed
from llama4_local.checkpoint.writer import save_checkpoint
from llama4_local.ops.reference.attention import write
from llama4_local.weights.e4m3 import rounded, widened
from llama4_local.weights.schema import random_weights
from llama4sdk import Llama4
from llama4sdk.errors import CheckpointError, InvalidRequest
from local.small_backends import (
    SmallEngine,
    asking,
    chatting,
    check_at_rest,
    endless,
    events_of,
    saved_chat,
    serving,
    text_of,
)
from local.small_checkpoints import CHUNK, guard, maverick, prompt, scout

E4M3 = torch.float8_e4m3fn
SMALL = {"scout": scout, "maverick": maverick, "guard": guard}
LONG = "hello world " * 12
FORM = "llama4_local session 3"

# A number in e4m3 is off by a sixteenth at most, by 2.6% as a rule. Over eight layers of attention that made 3.2% to
# 7.0% of the scores' norm for 12 random networks of these shapes; bf16 weights and activations make 1.0% to 1.7%.
LIMIT = 0.09


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_chat(tmp_path_factory.mktemp("checkpoint"), endless())


def layer_cache(dtype: torch.dtype) -> LayerCache:
    empty = torch.zeros(3, 4, 2, 16, dtype=dtype)
    return LayerCache(empty, empty.clone(), "global")


def test_every_number_of_e4m3_is_read_as_torch_reads_it() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(E4M3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert widened(numbers, dtype).dtype == dtype
        assert torch.allclose(widened(numbers, dtype), numbers.to(dtype), rtol=0, atol=0, equal_nan=True)
        finite = numbers[:127]
        assert torch.equal(widened(finite, dtype), finite.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_beyond_448_is_cut_off_and_no_nan(dtype: torch.dtype) -> None:
    layer, rows = layer_cache(E4M3), torch.tensor([448.0, 449, 500, -1e4, torch.inf, -torch.inf, 1, 0], dtype=dtype)
    write(layer, torch.tensor([5]), rows.repeat(4).view(1, 2, 16), -rows.repeat(4).view(1, 2, 16))
    wanted = torch.tensor([448.0, 448, 448, -448, 448, -448, 1, 0]).repeat(4).view(2, 16)
    assert torch.equal(layer.keys[1, 1].float(), wanted)
    assert torch.equal(layer.values[1, 1].float(), -wanted)
    assert not layer.keys[0].float().any()


def test_a_torch_that_makes_nan_of_what_is_too_large_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cast = torch.Tensor.to

    def as_some_versions_do(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        found = cast(x, dtype)
        found.view(torch.uint8).masked_fill_(x.abs() >= 464, 0x7F)
        return found

    monkeypatch.setattr(torch.Tensor, "to", as_some_versions_do)
    found = rounded(torch.tensor([500.0, -1e4, torch.inf, 3]), E4M3)
    monkeypatch.undo()
    assert found.float().tolist() == [448, -448, 448, 3]


def test_what_is_not_a_number_stays_so() -> None:
    layer, rows = layer_cache(E4M3), torch.full((1, 2, 16), torch.nan)
    write(layer, torch.tensor([5]), rows, rows)
    assert widened(layer.keys[1, 1], torch.float32).isnan().all()
    assert not widened(layer.keys[2], torch.float32).isnan().any()


def test_it_takes_half_the_memory_of_bf16_and_a_quarter_of_fp32() -> None:
    shape = CacheShape(7, 5, 4, CHUNK)
    narrow, half, wide = (
        KvCache.allocate(scout().text, shape, dtype=dtype).bytes for dtype in (E4M3, torch.bfloat16, torch.float32)
    )
    assert narrow * 4 == half * 2 == wide > 0


def test_the_same_memory_holds_twice_the_tokens() -> None:
    half, narrow = (
        cache_shape(scout().text, context=100_000, sequences=1, memory=10**7, itemsize=size) for size in (2, 1)
    )
    assert narrow.global_pages == pytest.approx(2 * half.global_pages, rel=0.02)


def test_pages_are_copied_in_it() -> None:
    cache = KvCache.allocate(scout().text, CacheShape(6, 4, 4, CHUNK), dtype=E4M3)
    for layer in cache.layers:
        layer.keys[1], layer.values[1] = 2.0, -3.0
    cache.copy([PageCopy("global", 1, 5)])
    assert all((layer.values[5].float() == -3.0).all() for layer in cache.layers if layer.pool == "global")
    assert not any(layer.keys[4].float().any() for layer in cache.layers)


@pytest.mark.parametrize("shape", SMALL)
def test_scores_are_near_those_of_the_plain_cache(tmp_path: Path, shape: str) -> None:
    config = SMALL[shape]()
    save_checkpoint(tmp_path, config, random_weights(config, 0, std=0.08))
    ids = prompt(config, 60)
    plain, narrow = score(tmp_path, ids), score(tmp_path, ids, cache_dtype="fp8")
    assert 0.01 < float((narrow - plain).norm() / plain.norm()) < LIMIT


def test_scores_do_not_depend_on_the_pieces_that_a_prompt_is_cut_into(tmp_path: Path) -> None:
    # A sum in another order may put a number on the other side of a rounding edge, so they are near, not equal.
    save_checkpoint(tmp_path, scout(), random_weights(scout(), 1, std=0.08))
    ids = prompt(scout(), 30)
    whole, cut = (score(tmp_path, ids, cache_dtype="fp8", prefill_chunk=chunk) for chunk in (None, 3))
    assert float((whole - cut).norm() / whole.norm()) < 0.01


@pytest.mark.parametrize("shape", SMALL)
def test_streams_side_by_side_say_what_each_says_alone_in_pages_full_of_nan(shape: str) -> None:
    small, alone = (SmallEngine(chatting(SMALL[shape]()), cache_dtype=E4M3) for _ in range(2))
    for pair in small.engine._cache.storage.values():  # pyright: ignore[reportPrivateUsage]
        for tensor in pair:
            tensor.view(torch.uint8).fill_(0x7F)
    prompts = [prompt(small.config, tokens, seed=tokens) for tokens in (3, 5, 13, 21, 30)]
    together = [small.submit(ids) for ids in prompts]
    small.run()
    assert [reader.error for reader in together] == [None] * len(prompts)
    same = [reader.text == alone.answer(ids).text for reader, ids in zip(together, prompts, strict=True)]
    # A sum in another order may put a number on the other side of a rounding edge, and an answer on another way.
    assert sum(same) >= len(same) - 1
    check_at_rest(small)


def test_what_is_cached_is_gone_on_from() -> None:
    small, ids = SmallEngine(cache_dtype=E4M3), prompt(chatting(), 29)
    first = small.answer(ids)
    second, third = small.answer(ids), small.answer([*ids, 7])
    assert first.usage.cached_tokens == 0 < min(second.usage.cached_tokens, third.usage.cached_tokens)
    assert second.text == first.text
    assert third.text == SmallEngine(cache_dtype=E4M3).answer([*ids, 7]).text
    check_at_rest(small)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_the_backend_keeps_it_as_the_option_says(folder: Path, dtype: str) -> None:
    held: list[int] = []
    for cache_dtype in ("auto", "fp8"):
        async with serving(folder, dtype=dtype, cache_dtype=cache_dtype, max_sequences=2) as backend:
            assert text_of(await events_of(backend, asking()))
            worker, _ = backend.running()
            held.append(await worker.ask(lambda engine: engine.cache_bytes))
    assert held[0] == held[1] * (4 if dtype == "float32" else 2)


async def test_in_a_small_memory_the_backend_makes_twice_the_pages(folder: Path) -> None:
    pages: list[int] = []
    bare = plan(folder, memory="1GB", machine="cpu", context=16, step_tokens=16, dtype="bfloat16")
    options = {"memory": round(bare.needed * 2), "context": 512, "step_tokens": 16, "max_sequences": 64}
    for cache_dtype in ("auto", "fp8"):
        async with serving(folder, dtype="bfloat16", cache_dtype=cache_dtype, **options) as backend:
            worker, _ = backend.running()
            shape = await worker.ask(lambda engine: engine._pages.shape)  # pyright: ignore[reportPrivateUsage]
            pages.append(shape.global_pages)
    assert 2 * pages[0] <= pages[1] < 64 * 512 / CHUNK  # fewer than all sequences could ever fill


async def test_a_string_names_the_backend_and_an_option_the_cache(folder: Path) -> None:
    async with Llama4(f"local:{folder}", cache_dtype="fp8") as llama:
        assert (await llama.chat("hello")).text


@pytest.mark.parametrize("wrong", ["int8", "bf16", None, 8])
def test_another_type_of_cache_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidRequest, match="cache_dtype is one of auto, fp8"):
        LocalBackend(cache_dtype=wrong)  # pyright: ignore[reportArgumentType]


async def test_a_refusal_proposes_it_where_it_makes_the_model_fit(folder: Path) -> None:
    wide, narrow = (
        plan(folder, cache_dtype=kind, memory="1GB", machine="cpu", context=400, step_tokens=16).needed
        for kind in ("auto", "fp8")
    )
    memory = round((wide + narrow) / 2 / 0.96)
    options = {"memory": memory, "context": 400, "step_tokens": 16, "max_sequences": 1}
    with pytest.raises(InvalidRequest, match="cache_dtype='fp8' makes it fit"):
        await LocalBackend(folder, **options).start()  # pyright: ignore[reportArgumentType]
    async with serving(folder, cache_dtype="fp8", **options) as backend:
        assert text_of(await events_of(backend, asking()))


async def test_a_session_is_forked_saved_and_restored_in_it(folder: Path, tmp_path: Path) -> None:
    async with serving(folder, cache_dtype="fp8") as backend, await backend.session(asking(LONG)) as session:
        await session.save(tmp_path / "session")
        async with await session.fork() as twin, twin.open(asking("more")) as events:
            forked = text_of([event async for event in events])
        async with session.open(asking("more")) as events:
            expected = text_of([event async for event in events])
    assert forked == expected
    assert load_file(tmp_path / "session")["keys"].dtype == E4M3
    async with (
        serving(folder, cache_dtype="fp8") as backend,
        await backend.restore(tmp_path / "session") as session,
        session.open(asking("more")) as events,
    ):
        assert text_of([event async for event in events]) == expected


@pytest.mark.parametrize("saved_in", ["auto", "fp8"])
async def test_a_session_of_another_cache_is_refused_with_what_to_do(
    folder: Path, tmp_path: Path, saved_in: str
) -> None:
    async with serving(folder, cache_dtype=saved_in) as backend, await backend.session(asking(LONG)) as session:
        await session.save(tmp_path / "session")
    async with serving(folder, cache_dtype="fp8" if saved_in == "auto" else "auto") as backend:
        with pytest.raises(InvalidRequest, match=r"restore it with the dtype= and cache_dtype= that it was saved with"):
            await backend.restore(tmp_path / "session")


@pytest.mark.parametrize("damage", ["nan", "a type that no cache has"])
async def test_fault_66_an_fp8_session_that_lies_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "session"
    async with serving(folder, cache_dtype="fp8") as backend, await backend.session(asking(LONG)) as session:
        await session.save(path)
        tensors, metadata = read_sealed(path, FORM)
        bits = tensors["keys"].view(torch.uint8)
        bits[0, 0, 0, 0] = 0xFF
        keys = bits.view(E4M3) if damage == "nan" else bits.view(torch.float8_e5m2)
        write_sealed(path, FORM, {**tensors, "keys": keys}, metadata)
        with pytest.raises(CheckpointError, match="finite numbers"):
            await backend.restore(path)
