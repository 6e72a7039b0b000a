"""Counters, histograms and gauges of one server, in Prometheus' text form."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from llama4sdk.backend import ReportsLoad
from llama4sdk.events import Done, GuardFlag, Progress, Started, Switched, Usage, UsageUpdate
from llama4sdk.server.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4sdk.backend import Backend, BackendLoad
    from llama4sdk.events import Event

CONTENT_TYPE = CONTENT_TYPE_LATEST
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Those of one server; two servers in one process do not share any."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "llama4_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self._tokens = Counter(
            "llama4_tokens",
            "Tokens by kind: prompt, completion, image (of the prompt), cached (of the prompt, found computed).",
            ["kind"],
            registry=registry,
        )
        self.gone = Counter("llama4_clients_gone", "Requests whose client left before the end.", registry=registry)
        self.first = Histogram("llama4_first_token_seconds", "From the request to its first token.", _FIRST, registry)
        self.between = Histogram("llama4_inter_token_seconds", "Between two chunks of an answer.", _BETWEEN, registry)
        self.whole = Histogram("llama4_answer_seconds", "From the request to the end of its answer.", _WHOLE, registry)
        self._running = Gauge("llama4_requests_running", "Requests that the server answers now.", registry=registry)
        self._ready = Gauge("llama4_ready", "Whether the model is loaded.", registry=registry)
        self._engine = Gauge(
            "llama4_engine_requests", "Requests in the backend, by state.", ["state"], registry=registry
        )
        self._verdicts = Gauge(
            "llama4_guard_verdicts", "Verdicts of guards.", ["guard", "stage", "action"], registry=registry
        )
        self._pages = Gauge(
            "llama4_cache_pages", "Cache pages in the tables of requests, by pool.", ["pool"], registry=registry
        )

    def count(self, usage: Usage) -> None:
        """Count the tokens of an answer."""
        counts = {
            "prompt": usage.prompt_tokens,
            "completion": usage.completion_tokens,
            "image": usage.image_tokens,
            "cached": usage.cached_tokens,
        }
        for kind, number in counts.items():
            self._tokens.labels(kind).inc(number)

    def exposition(
        self, backend: Backend, running: int, guard_counts: Mapping[tuple[str, str, str], int] | None = None
    ) -> bytes:
        """Return everything in the text form."""
        load = load_of(backend)
        for labels, count in (guard_counts or {}).items():
            self._verdicts.labels(*labels).set(count)
        self._running.set(running)
        if load is not None:
            self._ready.set(load.ready)
            self._engine.labels("running").set(load.running)
            self._engine.labels("waiting").set(load.waiting)
            for pool, pages in load.pages.items():
                self._pages.labels(pool).set(pages)
        return generate_latest(self._registry)


class AnswerClock:
    """Times one answer, and counts its tokens.

    Args:
        metrics: Where times and counts go.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun = time.perf_counter()
        self._last: float | None = None
        self._counted = False

    def saw(self, event: Event) -> None:
        """Take note of an event that came now."""
        if isinstance(event, _BEFORE_THE_ANSWER):
            return
        now = time.perf_counter()
        if isinstance(event, Done):
            self._metrics.whole.observe(now - self._begun)
            self._metrics.count(event.usage or Usage())
            self._counted = True
            return
        if self._last is None:
            self._metrics.first.observe(now - self._begun)
        else:
            self._metrics.between.observe(now - self._last)
        self._last = now

    def left(self, usage: Usage) -> None:
        """Count the tokens of an answer that was left before its end; those of a whole one are counted."""
        if not self._counted:
            self._metrics.count(usage)


_BEFORE_THE_ANSWER = (Started, Progress, Switched, UsageUpdate, GuardFlag)


def load_of(backend: Backend) -> BackendLoad | None:
    """Return a backend's load, where it reports it."""
    return backend.current_load if isinstance(backend, ReportsLoad) else None
