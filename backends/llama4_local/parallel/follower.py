"""A rank beside rank 0: carries out, in order, the commands that rank 0 announces."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch

from llama4_local.cache.kv_cache import KvCache
from llama4_local.cache.page_table import CacheShape, PageCopy
from llama4_local.decoding import sampling_order
from llama4_local.decoding.sampling_order import SamplingOrder
from llama4_local.engine import rank_graphs
from llama4_local.engine.cuda_graphs import Rerun
from llama4_local.engine.rank_graphs import RankGraphs
from llama4_local.model.transformer import forward, uncast_logits
from llama4_local.parallel.channel import receive
from llama4_local.parallel.step_message import step_batch

if TYPE_CHECKING:
    import socket

    from torch import Tensor

    from llama4_local.engine.cuda_graphs import Capture
    from llama4_local.model.transformer import Model
    from llama4_local.parallel.channel import Message
    from llama4_local.parallel.device_watch import DeviceWatch
    from llama4_local.parallel.member import Member


class Follower:
    """Serves until rank 0 is gone.

    Args:
        model: This rank's share.
        member: Its part in the collectives.
        watch: Of its device, where that works beside the host.
        capture: Records work as a graph.
    """

    def __init__(
        self, model: Model, member: Member, watch: DeviceWatch | None = None, capture: Capture = Rerun
    ) -> None:
        self._model = model
        self._member = member
        self._watch = watch
        self._capture = capture
        self._graphs: dict[int, RankGraphs] = {}  # by the numbers of their caches
        self._caches: dict[int, KvCache] = {}
        self._hidden: Tensor | None = None  # of the last step

    @torch.inference_mode()
    def serve(self, commands: socket.socket) -> None:
        """Carry out commands.

        Raises:
            Disconnected: Rank 0 is gone.
        """
        while True:
            message = receive(commands)
            with self._watch.command() if self._watch else nullcontext():
                self._carry_out(message.on(self._model.device))

    def _carry_out(self, message: Message) -> None:
        match message.kind:
            case "step":
                self._hidden = forward(self._model, step_batch(message), self._cache(message))
            case sampling_order.COMMAND if self._hidden is not None:
                vocab = self._model.config.text.vocab_size
                order = SamplingOrder.read(message.fields, message.tensors, vocab)
                order.carry_out(self._model, self._hidden, self._member)
            case rank_graphs.PREPARE:
                limits = message.fields["tokens"], message.fields["sequences"]
                self._graphs[message.fields["cache"]] = RankGraphs(
                    self._model, self._cache(message), self._member, self._capture, *limits
                )
            case rank_graphs.CAPTURE:
                self._graphs[message.fields["cache"]].add(message.fields["shape"])
            case rank_graphs.REPLAY:
                self._hidden = self._graphs[message.fields["cache"]].follow(message.fields, message.tensors)
            case "scores":
                uncast_logits(self._model, message.tensors[0])
            case "cache":
                self._caches[message.fields["cache"]] = self._allocate(message)
            case "drop":
                self._graphs.pop(message.fields["cache"], None)
                del self._caches[message.fields["cache"]]
            case "copy":
                self._member.copy(self._cache(message), [PageCopy(*each) for each in message.fields["copies"]])
            case "read":
                self._member.read_pages(self._cache(message), message.fields["layer"], message.fields["pages"])
            case "write":
                fields = message.fields
                self._member.write_pages(self._cache(message), fields["layer"], fields["pages"], *message.tensors)
            case unknown:
                raise ValueError(f"no command is called {unknown!r}")

    def _cache(self, message: Message) -> KvCache:
        return self._caches[message.fields["cache"]]

    def _allocate(self, message: Message) -> KvCache:
        dtype = cast("torch.dtype", getattr(torch, message.fields["dtype"]))
        shape = CacheShape(*message.fields["shape"])
        return KvCache.allocate(self._model.config.text, shape, dtype=dtype, device=self._model.device)
