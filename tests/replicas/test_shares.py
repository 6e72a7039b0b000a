"""How many replicas a load asks for, what each takes, and how many of them a cluster holds: numbers alone."""

from __future__ import annotations

from typing import Any

import pytest

from llama4_ray import RayBackend, Scaling, open_backend
from llama4_ray.placement import capacity, largest
from llama4_ray.scaling import Scaler
from llama4_ray.settings import Settings
from llama4sdk import InvalidRequest


def test_replicas_follow_the_queue_at_once_and_go_when_they_were_idle_for_a_while() -> None:
    scaler = Scaler(Scaling(least=1, most=4, queue=10, idle=30), now=0)
    assert scaler.target(1, 5, 1) == 1
    assert scaler.target(1, 25, 2) == 3
    assert scaler.target(3, 500, 3) == 4
    assert scaler.target(4, 12, 10) == 4
    assert scaler.target(4, 12, 33) == 3
    assert scaler.target(3, 12, 34) == 2
    assert scaler.target(2, 12, 36) == 2
    assert scaler.target(2, 0, 40) == 2
    assert scaler.target(2, 0, 66) == 1
    assert scaler.target(1, 0, 900) == 1


def test_the_string_splits_into_replicas_and_the_options_of_each() -> None:
    backend = open_backend("ray:local:/models/scout", replicas=3, max_replicas=5, quantize="int4")
    assert "local:/models/scout" in repr(backend)
    with pytest.raises(InvalidRequest, match="replicas again"):
        open_backend("ray:ray:local")
    with pytest.raises(InvalidRequest, match="min_replicas"):
        RayBackend("local", replicas=2, min_replicas=3, max_replicas=2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tensor_parallel": 2, "gpus": 1}, "gpus=2"),
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"tensor_parallel": "2"}, "tensor_parallel"),
        ({"cpus": -1}, "cpus"),
    ],
)
def test_shares_that_make_no_sense_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        RayBackend("local", **options)


def node(cpus: float, gpus: float, *, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}}


def test_a_cluster_holds_as_many_replicas_as_its_nodes_hold_whole() -> None:
    nodes = [node(8, 4), node(8, 3), node(64, 0), node(64, 8, alive=False)]
    assert capacity(Settings("local", {"tensor_parallel": 2}, 2, 2).share, nodes) == 3
    assert capacity(Settings("local", {"tensor_parallel": 2}, None, 4).share, nodes) == 1
    assert capacity(Settings("local", cpus=0, gpus=8).share, nodes) == 0
    assert capacity(Settings("local", cpus=0.1).share, nodes) == 800
    assert capacity(Settings("local", cpus=0).share, nodes) is None
    assert largest(nodes[:3]) == "8 CPUs and 4 GPUs"
