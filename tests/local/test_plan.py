"""The planner: its figures against the published limits, and against what is really allocated."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llama4_local.plan
from llama4_local.cache.kv_cache import KvCache
from llama4_local.checkpoint.plain import load_checkpoint
from llama4_local.config.formats import Storage, matrix_bytes
from llama4_local.config.model import ModelConfig
from llama4_local.config.writer import config_to_json
from llama4_local.nano import CHECKPOINT as NANO
from llama4_local.planning import Plan, check_fits, plan
from llama4_local.planning.command import main
from llama4_local.planning.network import step_weight_bytes, weight_bytes
from llama4_local.planning.published import PUBLISHED
from llama4_local.planning.sizing import Sizing
from llama4_local.weights.quantized import Fp8Matrix, Int4Matrix
from llama4_local.weights.schema import random_weights
from llama4sdk.errors import CheckpointError, InvalidRequest
from llama4sdk.models import MODELS
from local.small_checkpoints import guard, maverick, scout, text_only

SMALL = {"scout": scout, "maverick": maverick, "guard": guard, "text only": text_only}
H200 = "149GB"  # what an H200 shows to its programs


def near(value: float, share: float) -> object:
    return pytest.approx(value, rel=share)


def small_sizing(config: ModelConfig, dtype: str = "float32") -> Sizing:
    return Sizing.of(config, quantize=None, dtype=dtype, cache_dtype="auto", step_tokens=64, reference=True)


# The figures below were worked out by hand from the shapes: 62.9M parameters of attention per layer, 125.8M per expert.


@pytest.mark.parametrize(("batch", "gigabytes", "milliseconds"), [(1, 9.9, 2.3), (8, 26.8, 6.2), (64, 55.8, 13.0)])
def test_what_a_step_of_scout_reads_in_int4_is_as_worked_out(batch: int, gigabytes: float, milliseconds: float) -> None:
    found = plan("scout", memory=H200, quantize="int4", context=1, sequences=batch, bandwidth="4.3TB/s")
    (step,) = (step for step in found.steps if step.batch == batch)
    assert step.weight_bytes / 1e9 == near(gigabytes, 0.03)
    assert step.seconds is not None
    assert step.seconds * 1e3 == near(milliseconds, 0.03)
    assert step.tokens_per_second == near(batch / milliseconds * 1e3, 0.03)


@pytest.mark.parametrize(("batch", "gigabytes"), [(1, 14.3), (8, 31.3), (64, 60.3)])
def test_bf16_attention_beside_int4_experts_reads_as_worked_out(batch: int, gigabytes: float) -> None:
    storage = Storage(attention="plain", feed_forward="int4")
    assert step_weight_bytes(PUBLISHED["scout"], storage, batch) / 1e9 == near(gigabytes, 0.03)


@pytest.mark.parametrize(("batch", "gigabytes"), [(1, 17.2), (8, 50.1), (64, 106)])
def test_what_a_step_of_scout_reads_in_fp8_is_as_worked_out(batch: int, gigabytes: float) -> None:
    assert step_weight_bytes(PUBLISHED["scout"], Storage("fp8", "fp8"), batch) / 1e9 == near(gigabytes, 0.03)


@pytest.mark.parametrize(("quantize", "gigabytes"), [(None, 217), ("fp8", 112), ("int4", 60)])
def test_scouts_weights_are_as_large_as_worked_out(quantize: str | None, gigabytes: float) -> None:
    sizing = Sizing.of(
        PUBLISHED["scout"], quantize=quantize, dtype="auto", cache_dtype="auto", step_tokens=8192, reference=False
    )
    assert sizing.weights().total / 1e9 == near(gigabytes, 0.03)


def test_scouts_cache_takes_48_kib_per_token_and_1_21_gb_for_the_chunk() -> None:
    longer, shorter = (plan("scout", quantize="int4", context=tokens).cache for tokens in (1_064_960, 1_000_000 - 640))
    tokens = (longer.shape.global_pages - shorter.shape.global_pages) * longer.shape.page_size
    assert longer.global_pool - shorter.global_pool == 48 * 1024 * tokens
    assert longer.local_pool == shorter.local_pool == near(1.21e9, 0.01)


def test_in_fp8_scouts_cache_is_half_as_large() -> None:
    wide, narrow = (plan("scout", context="1M", cache_dtype=cache_dtype).cache.total for cache_dtype in ("bf16", "fp8"))
    assert narrow * 2 == wide


@pytest.mark.parametrize(("cache_dtype", "tokens"), [("bf16", 1.66e6), ("fp8", 3.35e6)])
def test_scouts_longest_sequence_on_an_h200_is_as_worked_out(cache_dtype: str, tokens: float) -> None:
    found = plan("scout", memory=H200, quantize="int4", cache_dtype="fp8" if cache_dtype == "fp8" else "bf16")
    assert found.longest_single == near(tokens, 0.03)


@pytest.mark.parametrize("name", ["scout", "maverick", "guard-4"])
def test_published_shapes_have_as_many_parameters_as_the_model_cards_say(name: str) -> None:
    assert weight_bytes(PUBLISHED[name], Storage("plain", "plain", itemsize=1)).total == near(
        MODELS[name].parameters, 0.005
    )
    assert PUBLISHED[name].text.max_positions == MODELS[name].context


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planned_weights_are_what_a_checkpoint_takes(shape: str, dtype: torch.dtype) -> None:
    config = SMALL[shape]()
    weights = random_weights(config, 0, dtype=dtype)
    taken = sum(tensor.nbytes for tensor in weights.leaves())
    assert small_sizing(config, str(dtype).removeprefix("torch.")).weights().total == taken


def test_planned_weights_are_what_loading_takes(small: tuple[Path, ModelConfig]) -> None:
    folder, config = small
    loaded = load_checkpoint(folder, config)
    taken = sum(tensor.nbytes for tensor in loaded.leaves())
    assert plan(folder, memory="1GB", machine="cpu").weights.total == taken


@given(
    shape=st.sampled_from(sorted(SMALL)),
    context=st.integers(1, 300),
    sequences=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=25, deadline=None)
def test_the_planned_cache_is_what_is_allocated(shape: str, context: int, sequences: int, dtype: torch.dtype) -> None:
    config = SMALL[shape]()
    planned = small_sizing(config, str(dtype).removeprefix("torch.")).cache(context, sequences)
    allocated = KvCache.allocate(config.text, planned.shape, dtype=dtype)
    assert planned.total == allocated.bytes
    assert planned.global_pool == sum(tensor.nbytes for tensor in allocated.storage["global"])


def test_packed_matrices_are_as_large_as_planned() -> None:
    experts, out, inputs = 3, 64, 256
    int4 = Int4Matrix(
        torch.zeros(experts, out, inputs // 2, dtype=torch.uint8),
        torch.zeros(experts, inputs // 128, out, dtype=torch.bfloat16),
    )
    fp8 = Fp8Matrix(torch.zeros(experts, out, inputs, dtype=torch.float8_e4m3fn), torch.zeros(experts, out))
    assert experts * matrix_bytes("int4", out, inputs, 2) == int4.nbytes
    assert experts * matrix_bytes("fp8", out, inputs, 2) == fp8.nbytes


@given(
    memory=st.integers(10**6, 10**8), sequences=st.integers(1, 4), shape=st.sampled_from(["scout", "maverick", "guard"])
)
@settings(max_examples=40, deadline=None)
def test_what_is_called_longest_fits_and_one_more_does_not(memory: int, sequences: int, shape: str) -> None:
    found = plan(SMALL[shape](), memory=memory, machine="cpu", context=100, sequences=sequences)
    sizing = Sizing.of(SMALL[shape](), quantize=None, dtype="auto", cache_dtype="auto", step_tokens=512, reference=True)
    assert found.fits == (found.longest_context >= 100) == (found.most_sequences >= sequences)
    for context in (found.longest_context, found.longest_context + 1):
        if context:
            assert (sizing.needed(context, sequences) <= found.available) == (context == found.longest_context)
    assert sizing.needed(100, found.most_sequences + 1) > found.available


def test_every_proposal_makes_it_fit() -> None:
    tight = plan("scout", memory="100GB", context="200K", sequences=16)
    assert not tight.fits
    assert "quantize='int4' with cache_dtype='fp8'" not in tight.explanation
    assert "quantize='int4' makes it fit with context=" in tight.explanation
    longest = int(tight.explanation.split("with context=")[1].split(".")[0])
    assert plan("scout", memory="100GB", context=longest, sequences=16, quantize="int4").fits
    assert not plan("scout", memory="100GB", context=longest + 64, sequences=16, quantize="int4").fits


def test_fewer_shorter_narrower_and_more_memory_are_proposed() -> None:
    tight = plan("scout", memory="100GB", context="90K", sequences=8, quantize="int4")
    assert not tight.fits
    assert "cache_dtype='fp8' makes it fit." in tight.advice
    assert f"sequences={tight.most_sequences} fits." in tight.advice
    assert f"context={tight.longest_context} fits." in tight.advice
    assert "one H200 has it" in tight.advice[-1]
    for change in ({"cache_dtype": "fp8"}, {"sequences": tight.most_sequences}, {"context": tight.longest_context}):
        assert plan("scout", **{"memory": "100GB", "context": "90K", "sequences": 8, "quantize": "int4", **change}).fits  # pyright: ignore[reportArgumentType]


def test_packed_weights_and_a_narrow_cache_are_proposed_together_where_neither_is_enough() -> None:
    options = {"memory": "80GB", "context": "320K"}
    tight = plan("scout", **options)  # pyright: ignore[reportArgumentType]
    assert "quantize='int4' with cache_dtype='fp8' makes it fit." in tight.advice
    assert "cache_dtype='fp8' makes it fit." not in tight.advice
    assert not plan("scout", quantize="int4", **options).fits  # pyright: ignore[reportArgumentType]
    assert plan("scout", quantize="int4", cache_dtype="fp8", **options).fits  # pyright: ignore[reportArgumentType]


def test_what_fits_needs_no_advice() -> None:
    found = plan("guard-4", memory="80GB", context="8K")
    assert found.fits
    assert found.advice == ()


def test_beyond_a_chunk_only_global_layers_read_more() -> None:
    near_it, far = (plan("scout", quantize="int4", context=tokens).steps[0] for tokens in (10_000, 20_000))
    assert far.cache_bytes - near_it.cache_bytes == 10_000 * 12 * 4096


def test_maverick_reads_the_experts_of_every_second_layer_only() -> None:
    (step, *_) = plan("maverick", context=1).steps
    layers = 24 * (2 * 62.9e6 + 2 * 125.8e6 + 251.7e6)
    assert step.weight_bytes == near(2 * (layers + 202_048 * 5120), 0.01)


def test_a_bandwidth_that_nobody_named_gives_no_time() -> None:
    steps = plan("guard-4", memory="64GB", machine="cpu", context=1024).steps
    assert all(step.seconds is None and step.tokens_per_second is None for step in steps)
    (first, *_) = plan("guard-4", memory="64GB", machine="cpu", context=1024, bandwidth="50GB/s").steps
    assert first.seconds == near((first.weight_bytes + first.cache_bytes) / 50e9, 1e-6)


@pytest.mark.parametrize(
    ("given", "count"),
    [(1, 1), ("141GB", 141 * 10**9), ("80GiB", 80 * 2**30), ("1.5 TB", 15 * 10**11), ("512mb", 512 * 10**6)],
)
def test_sizes_of_memory_are_read(given: int | str, count: int) -> None:
    assert plan("guard-4", memory=given, context=1).memory == count


@pytest.mark.parametrize(("given", "count"), [("8192", 8192), ("128K", 128_000), ("1M", 10**6), ("1Mi", 2**20)])
def test_contexts_are_read(given: str, count: int) -> None:
    assert plan("scout", context=given).context == count


@pytest.mark.parametrize(
    "bad",
    ["", "141", "GB", "-1GB", "1e9B", "141 G B", "141GBs", "0GB", "1.0000000001kB", "nan", "１GB", True, 0, 2**63],
)
def test_sizes_of_memory_that_mean_nothing_are_refused(bad: int | str) -> None:
    with pytest.raises(InvalidRequest, match="memory is"):
        plan("guard-4", memory=bad)


@pytest.mark.parametrize("bad", ["", "1MB", "1.5", "-8", "K", 0, True])
def test_contexts_that_mean_nothing_are_refused(bad: int | str) -> None:
    with pytest.raises(InvalidRequest, match="context is"):
        plan("scout", context=bad)


@given(text=st.text(max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_other_text_is_refused_and_never_breaks(text: str) -> None:
    try:
        found = plan("guard-4", memory=text, context=1)
    except InvalidRequest:
        return
    assert found.memory >= 1


def test_a_context_beyond_the_model_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"guard-4 is made for 131,072 tokens"):
        plan("guard-4", context="1M")


def test_names_that_nothing_has_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"scout, maverick, guard-4, nano, a checkpoint folder or a config.json"):
        plan("scoot")
    with pytest.raises(InvalidRequest, match="known: H200, H100"):
        plan("scout", machine="h300")
    with pytest.raises(InvalidRequest, match="quantize is one of int4, fp8"):
        plan("scout", quantize="int3")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidRequest, match="cache_dtype is one of"):
        plan("scout", cache_dtype="int4")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidRequest, match="dtype is one of"):
        plan("scout", dtype="int8")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidRequest, match="memory='16GB'"):
        plan("scout", machine="cpu")


def test_int4_is_refused_where_inputs_make_no_groups() -> None:
    with pytest.raises(InvalidRequest, match="groups of 32; this model has matrices with 48"):
        plan(scout(), memory="1GB", quantize="int4")
    tight = plan(scout(), memory=5_700_000, machine="cpu")
    assert "quantize='fp8'" in tight.explanation
    assert "int4" not in tight.explanation


def test_a_config_file_and_its_folder_are_planned_alike(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(PUBLISHED["scout"])))
    of_file, of_folder = (plan(path, quantize="int4") for path in (tmp_path / "config.json", tmp_path))
    assert of_file == of_folder == replace(plan("scout", quantize="int4"), model=tmp_path.name)


def test_a_config_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="must be llama4"):
        plan(tmp_path / "config.json")


def test_nano_fits_anywhere() -> None:
    if not (NANO / "config.json").is_file():
        pytest.skip("the bundled nano model has not been trained yet")
    found = plan("nano", memory="1GB", machine="cpu", sequences=8)
    assert found.fits
    assert found.weights.total < 30e6


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(CheckpointError, match=r"needs 2\d\d.*weights.*A memory of") as refused:
        check_fits(PUBLISHED["scout"], 141 * 10**9, name="/models/scout", device="cuda")
    assert refused.value.path == "/models/scout"
    assert "quantize" not in str(refused.value)


def test_a_context_that_cannot_fit_is_refused_with_one_that_can() -> None:
    with pytest.raises(InvalidRequest, match=r"context=\d+ fits") as refused:
        check_fits(PUBLISHED["guard-4"], 40 * 10**9, context=131_072, device="cuda")
    longest = int(str(refused.value).split("context=")[1].split(" ")[0])
    assert check_fits(PUBLISHED["guard-4"], 40 * 10**9, context=longest, device="cuda").fits


def test_a_cache_that_leaves_no_room_is_refused() -> None:
    config = guard()
    room = check_fits(config, 10_000_000).cache_room
    assert check_fits(config, 10_000_000, cache=room).cache_room == room
    with pytest.raises(InvalidRequest, match="A cache of"):
        check_fits(config, 10_000_000, cache=room + 1)


def test_the_proposals_of_a_refusal_are_those_that_the_caller_can_follow() -> None:
    with pytest.raises(CheckpointError, match="quantize='int4' makes it fit"):
        check_fits(PUBLISHED["scout"], 141 * 10**9, device="cuda", changes=("quantize",))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llama4_local.plan", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_prints_a_plan_and_loads_no_torch() -> None:
    code = (
        "import sys; from llama4_local.plan import main; "
        "main(['scout', '--memory', '141GB', '--quantize', 'int4', '--context', '1M']); "
        "print([name for name in ('torch', 'safetensors', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *table, modules = done.stdout.strip().splitlines()
    assert modules == "[]"
    assert any("global layers" in line and "49.16 GB" in line for line in table)
    assert any("It fits" in line for line in table)


def test_the_command_is_run_as_documented() -> None:
    done = run("scout", "--memory", "141GB", "--quantize", "int4", "--context", "1M")
    assert (done.returncode, done.stderr) == (0, "")
    assert "60.39 GB" in done.stdout


def test_the_command_plans_with_an_fp8_cache(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scout", "--memory", H200, "--quantize", "int4", "--context", "3M", "--cache", "fp8"]) == 0
    assert "fp8 cache" in capsys.readouterr().out
    assert main(["scout", "--memory", H200, "--quantize", "int4", "--context", "3M"]) == 1
    assert "cache_dtype='fp8' makes it fit." in capsys.readouterr().out


def test_the_command_tells_by_its_status_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scout", "--memory", "80GB", "--context", "128K", "--machine", "h100"]) == 1
    printed = capsys.readouterr().out
    assert "It does not fit" in printed
    assert "quantize='int4' makes it fit" in printed


def test_the_documented_example_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "planning.md"
    _, example = page.read_text().split("$ python -m llama4_local.plan scout --memory 100GB ")
    arguments, *lines = example.split("```")[0].strip().splitlines()
    assert main(["scout", "--memory", "100GB", *arguments.split()]) == 1
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines if line != "…")


def test_the_command_says_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scout", "--memory", "lots"]) == 2
    assert "'141GB'" in capsys.readouterr().err


def test_importing_the_commands_module_leaves_the_function_callable() -> None:
    again: Plan = llama4_local.plan("guard-4", context=1)  # pyright: ignore
    assert again == plan("guard-4", context=1)
