"""From a checkpoint folder to rank 0's model, the other ranks beside it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llama4_local.checkpoint.network import read_network
from llama4_local.config.share import check_split
from llama4_local.parallel.channel import Message
from llama4_local.parallel.coordinator import Coordinator, threads_each
from llama4_local.parallel.devices import use_device
from llama4_local.parallel.exchange import Exchange
from llama4_local.parallel.loading import ShardSource, load_share, rank_model
from llama4_local.parallel.processes import RankProcesses

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama4_local.config.formats import HeadType, WeightFormat
    from llama4_local.config.share import Share
    from llama4_local.model.transformer import Model
    from llama4_local.weights.tree import Weights

# Seconds that a collective waits for a rank that lives; on a GPU another one may compile a kernel meanwhile.
_PATIENCE = {"cpu": 30.0, "cuda": 120.0}
_LOOK_AGAIN = 0.05  # seconds


def load_over_ranks(
    folder: str | Path,
    share: Share,
    devices: tuple[str, ...],
    *,
    dtype: str = "auto",
    quantize: WeightFormat | None = None,
    head_dtype: HeadType = "auto",
    threads: int | None = None,
    keep: bool = True,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Start the other ranks, load all shares at once, and return rank 0's model; its `ranks` have to be closed.

    Args:
        folder: In Hugging Face form.
        share: Rank 0's place among them, which is this process's.
        devices: Of each rank; rank 0's becomes this thread's current one. See `devices_of`.
        dtype: See `load_model`.
        quantize: See `load_model`.
        head_dtype: See `load_model`.
        keep: Whether each rank keeps the packed form of its share.
        verify: Whether checksums of a kept form are compared at every start.
        threads: Threads of torch for each rank, a setting of the whole process; None divides those it has now.
        progress: Called with the bytes that all ranks have read and in all; whatever it raises ends the loading.

    Raises:
        CheckpointError: A folder that cannot be served.
        InvalidRequest: A network that cannot be divided among so many.
        RankLost: Another rank failed.
    """
    size = share.size
    source = ShardSource(str(Path(folder).resolve()), dtype, quantize, head_dtype, keep, verify)
    check_split(read_network(folder).config, share, quantize=quantize)
    threads = threads or threads_each(size)
    torch.set_num_threads(threads)
    device = use_device(devices[0])
    patience = _PATIENCE[device.type]
    common = {**asdict(source), **asdict(share), "threads": threads, "patience": patience}
    processes = RankProcesses([{**common, "rank": rank, "device": devices[rank]} for rank in range(1, size)])
    try:
        weights = _load(source, share, device, processes, progress or _ignore)
        ranks = Coordinator(share, Exchange(share, processes.meeting, patience, device, processes.check), processes)
        processes.met()
        return rank_model(source, weights, ranks, share)
    except BaseException:
        processes.close()
        raise


def _load(
    source: ShardSource,
    share: Share,
    device: torch.device,
    processes: RankProcesses,
    progress: Callable[[int, int], None],
) -> Weights:
    """Load this rank's share while the others load theirs, and let them meet."""
    own = (0, 0)

    def report(done: int, total: int) -> None:
        nonlocal own
        own = (done, total)
        others = processes.progress
        progress(done + others[0], total + others[1])

    weights = load_share(source, share, report, str(device))
    while not processes.loaded:
        report(*own)
        time.sleep(_LOOK_AGAIN)
    processes.tell(Message("meet"))
    return weights


def _ignore(done: int, total: int) -> None:
    """Report nothing."""
