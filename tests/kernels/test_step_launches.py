"""The launches of a layer in a decode step, counted where they are made; a table in docs/kernels.md lists them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes for Linux only")

from kernels.interpreted.test_whole_model import CHUNK, config, network
from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import CacheShape, PageAllocators
from llama4_local.model.transformer import Model, forward
from llama4_local.ops.batch import SequenceInput, build_batch
from llama4_local.ops.kernels.arrivals import arrival_counters
from llama4_local.ops.kernels.functions import KernelOps
from llama4_local.ops.kernels.launch import recording
from llama4_local.ops.kernels.tile_table import TileTable

if TYPE_CHECKING:
    from llama4_local.ops.kernels.tiles import Format, Trial

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


def layer_launches(weight_format: Format, tiles: TileTable) -> list[str]:
    """The kernels of the second layer of a network in a step of one token, in their order."""
    shape = CacheShape(global_pages=4, local_pages=4, page_size=4, chunk=CHUNK)
    model = Model.create(config(), network(config(), weight_format), KernelOps(tiles, arrival_counters("cpu")))
    cache, pages = KvCache.allocate(model.config.text, shape, dtype=torch.bfloat16), PageAllocators(shape).sequence()
    pages.extend(1)
    with torch.inference_mode(), recording() as launches:
        forward(model, build_batch([SequenceInput(pages, [7])]), cache)
    assert len(launches) % 2 == 1  # two layers and the last norm
    return [launch.name for launch in launches[len(launches) // 2 : -1]]


def listed() -> list[str]:
    """The kernels of the page's table, in its order."""
    table = PAGE.read_text().split("| launch |")[1].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)`", table, re.MULTILINE)


def test_a_layer_of_int4_makes_the_launches_that_the_page_lists() -> None:
    assert layer_launches("int4", TileTable()) == listed()


def test_fp8_quantizes_activations_before_each_product() -> None:
    own = layer_launches("fp8", TileTable())
    assert [name for name in own if name != "quantize_rows"] == listed()
    assert own.count("quantize_rows") == 4


@pytest.mark.parametrize("weight_format", ["int4", "bf16", "fp8"])
def test_merging_inside_attention_takes_a_launch_less(weight_format: Format) -> None:
    usual, fewer = (layer_launches(weight_format, tiles) for tiles in (TileTable(), trial("merge")))
    assert fewer == [name for name in usual if name != "attention_merge"]


def test_shares_are_launches_of_their_own_and_never_those_of_deterministic_serving() -> None:
    other = {"attention_decode": "attention_shares", "attention_merge": "attention_gather"}
    assert layer_launches("int4", trial("share")) == [other.get(name, name) for name in listed()]
    assert "attention_shares" not in layer_launches("int4", replace(trial("share"), deterministic=True))


def trial(name: Trial) -> TileTable:
    return TileTable(trials=frozenset({name}))
