"""Many backends as one: each of these is a backend that holds backends."""

from llama4sdk.routing.breaker import Breaker
from llama4sdk.routing.fallback import Fallback

__all__ = ["Breaker", "Fallback"]
