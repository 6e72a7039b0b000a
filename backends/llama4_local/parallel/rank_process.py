"""The program of a rank beside rank 0: `python -m llama4_local.parallel.rank_process COMMANDS REPORTS`.

The arguments are the numbers of two sockets that it inherits. The first command tells it its share.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from llama4_local.config.share import Share
from llama4_local.engine.cuda_graphs import cuda_capture
from llama4_local.parallel.channel import Disconnected, Message, receive
from llama4_local.parallel.device_watch import gpu_watch
from llama4_local.parallel.devices import use_device
from llama4_local.parallel.exchange import Exchange
from llama4_local.parallel.follower import Follower
from llama4_local.parallel.loading import ShardSource, load_share, rank_model
from llama4_local.parallel.member import Member
from llama4_local.parallel.reports import Reports
from llama4sdk.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Load a share and serve it; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what an interrupt means
    commands, connection = (socket.socket(fileno=int(number)) for number in arguments)
    reports = Reports(connection)
    reports.beat()
    try:
        _serve(commands, reports)
    except Disconnected:
        return 0
    except Exception as error:  # noqa: BLE001 - the process's edge: rank 0 gets the reason
        reports.send(Message("failed", _described(error)))
    return 1


def _serve(commands: socket.socket, reports: Reports) -> None:
    """Serve until rank 0 is gone, which is a `Disconnected`."""
    orders = receive(commands).fields
    reports.meeting = orders["meeting"]
    torch.set_num_threads(orders["threads"])
    share = Share(orders["rank"], orders["size"], orders["whole_experts"])
    source = ShardSource(**{each.name: orders[each.name] for each in fields(ShardSource)})
    device = use_device(orders["device"])
    weights = load_share(
        source, share, lambda done, total: reports.send(Message("loading", {"bytes": [done, total]})), str(device)
    )
    reports.send(Message("loaded"))
    receive(commands)  # all ranks are there
    member = Member(share, Exchange(share, orders["meeting"], orders["patience"], device))
    model = rank_model(source, weights, member, share)
    if device.type != "cuda":
        Follower(model, member).serve(commands)
        return
    watch = gpu_watch(orders["patience"])
    reports.beat_while(watch.works)
    Follower(model, member, watch, cuda_capture()).serve(commands)


def _described(error: Exception) -> dict[str, Any]:
    folder, problems = (error.path, error.problems) if isinstance(error, CheckpointError) else ("", ())
    return {"kind": type(error).__name__, "text": str(error), "folder": folder, "problems": list(problems)}


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # taking torch down in order would take seconds, and nothing is left to be written
