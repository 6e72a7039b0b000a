"""A gather over ranks inside a CUDA graph, by a group of one rank: what a single GPU can show of NCCL in graphs."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import torch
from hopper_inputs import DEVICE, REHEARSAL, normal
from torch import Tensor

from llama4_local.config.share import Share
from llama4_local.engine.cuda_graphs import Rerun, cuda_capture
from llama4_local.parallel.exchange import Exchange

REPLAYS = 3


def gathered_by_a_graph(tokens: int, size: int) -> tuple[Tensor, Tensor]:
    """Return what a graph makes of numbers that come after its capture, a gather in its middle, and what is right.

    Args:
        tokens: Rows of the numbers.
        size: Columns.
    """
    device = torch.device("cpu") if REHEARSAL else torch.device(DEVICE, torch.cuda.current_device())
    with TemporaryDirectory() as folder:
        exchange = Exchange(Share(0, 1), folder, 60.0, device)
    part, total = normal(tokens, size), normal(tokens, size)
    room = torch.zeros(part.nbytes, dtype=torch.uint8, device=device)

    def work() -> None:
        with exchange.gathering_into(room):
            total.copy_(exchange.gather(part * 2)[0] + 1)

    graph = (Rerun if REHEARSAL else cuda_capture())(work)
    got: list[Tensor] = []
    expected: list[Tensor] = []
    for _ in range(REPLAYS):
        part.copy_(normal(tokens, size))
        expected.append(exchange.gather(part * 2)[0] + 1)  # eager ones lie between replays, as in serving
        graph.replay()
        got.append(total.clone())
    del graph  # before the group that it gathers with
    exchange.abort()
    return torch.stack(got), torch.stack(expected)
