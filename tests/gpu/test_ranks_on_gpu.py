"""Steps over ranks on one Hopper GPU: a group of one rank, whose gathers over NCCL lie inside CUDA graphs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from llama4_local.cache.page_table import CacheShape
from llama4_local.checkpoint.loader import load_model
from llama4_local.config.model import GenerationConfig
from llama4_local.config.share import Share
from llama4_local.engine.cuda_graphs import Rerun, cuda_capture
from llama4_local.engine.eager_runner import EagerRunner
from llama4_local.engine.engine import Engine, EngineLimits
from llama4_local.engine.mailbox import Mailbox
from llama4_local.engine.request import EngineRequest
from llama4_local.model.transformer import Model
from llama4_local.nano import CHECKPOINT as NANO
from llama4_local.ops.interface import is_hopper
from llama4_local.parallel.coordinator import Coordinator
from llama4_local.parallel.devices import use_device
from llama4_local.parallel.exchange import Exchange
from llama4_local.parallel.processes import RankProcesses
from llama4sdk.prompting import Tokenizer
from llama4sdk.request import Sampling
from local.small_backends import CollectingOutbox, Reader

DEVICE = "cuda:0"
pytestmark = pytest.mark.skipif(not is_hopper(DEVICE), reason="needs a Hopper GPU (H100, H200) and Triton")

LENGTHS = (20, 1, 200, 64, 700, 33)  # of prompts
SAMPLINGS = (Sampling(temperature=0, max_tokens=60), Sampling(temperature=1.0, top_p=0.9, seed=11, max_tokens=60))


@contextmanager
def one_rank(quantize: str | None) -> Generator[Model]:
    """Yield nano over a group of one rank."""
    device, processes = use_device(DEVICE), RankProcesses([])
    exchange = Exchange(Share(0, 1), processes.meeting, 60.0, device)
    loaded = load_model(NANO, device=DEVICE, quantize=quantize, keep=False)  # type: ignore[arg-type]
    config = replace(loaded.config, generation=GenerationConfig())
    ranks = Coordinator(Share(0, 1), exchange, processes)
    try:
        yield Model.create(config, loaded.weights, loaded.ops, ranks)
    finally:
        ranks.close()


class Served:
    """An engine over the rank, stepped here."""

    def __init__(self, model: Model, *, graphs: bool) -> None:
        self.outbox = CollectingOutbox()
        self.engine = Engine(
            model,
            CacheShape(300, 200, 64, model.config.text.chunk),
            EngineLimits(step_tokens=256, max_sequences=8),
            tokenizer=Tokenizer.from_file(NANO),
            outbox=self.outbox,
        )
        capture = cuda_capture() if torch.device(DEVICE).type == "cuda" else Rerun
        self.engine.warm_up(capture if graphs else None)

    def written(self, lengths: Sequence[int], sampling: Sampling) -> list[list[int]]:
        """Return the tokens of answers to random prompts, which arrive one after the other."""
        readers: list[Reader] = []
        for seed, length in enumerate(lengths):
            reader = Reader(Mailbox(10**9, lambda: None))
            self.outbox.readers[reader.mailbox] = reader
            ids = torch.randint(0, 1000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
            own = replace(sampling, seed=seed)
            reader.engine_request = EngineRequest(
                f"{seed}", ids, (), 0, length + 60, own, seed, 0, str(seed), reader.mailbox
            )
            self.engine.submit(reader.engine_request)
            readers.append(reader)
            for _ in range(5):
                self.engine.step()
        while not self.engine.idle:
            self.engine.step()
        assert [reader.error for reader in readers] == [None] * len(readers)
        return [list(reader.engine_request.written) for reader in readers if reader.engine_request]

    def close(self) -> None:
        """Drop the graphs alone."""
        self.engine._runner.close()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("quantize", [None, "int4", "fp8"])
def test_graphs_with_gathers_write_what_eager_steps_write(quantize: str | None) -> None:
    with one_rank(quantize) as model:
        graphs, eager = Served(model, graphs=True), Served(model, graphs=False)
        runner = graphs.engine._runner  # pyright: ignore[reportPrivateUsage]
        assert isinstance(runner, EagerRunner)
        assert runner._graphs  # pyright: ignore[reportPrivateUsage]
        same = 0
        for sampling in SAMPLINGS:
            pairs = zip(graphs.written(LENGTHS, sampling), eager.written(LENGTHS, sampling), strict=True)
            same += sum(one == other for one, other in pairs)
        print(f"\n  {quantize or 'bf16'}: {same} of {2 * len(LENGTHS)} answers are the same", end="")
        assert same >= 2 * len(LENGTHS) - 3  # padded products round otherwise, and tokens may be nearly as likely
        graphs.close()
