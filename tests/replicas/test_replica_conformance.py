"""The promises of every backend, kept by two replicas of nano on Ray."""

from __future__ import annotations

from collections.abc import Generator

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from llama4sdk.backend import Backend
from llama4sdk.testing.conformance import BackendConformance
from replicas.nano_replicas import nano_replicas, one_cluster


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Generator[None]:
    with one_cluster():
        yield


class TestReplicas(BackendConformance):
    long_prompt = "Who are you and what can you do?"

    def make(self) -> Backend:
        return nano_replicas()
