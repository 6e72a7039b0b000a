"""A histogram for one thread: counting is a search in a short list, without a lock."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry


class Histogram(Collector):
    """Counts values by buckets; on the event loop only.

    Args:
        name: Its name.
        description: Its description.
        bounds: The upper bounds of the buckets, rising.
        registry: Where it is registered.
    """

    def __init__(self, name: str, description: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._description = description
        self._bounds = list(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram, its buckets cumulative."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._description, buckets, self._sum)
