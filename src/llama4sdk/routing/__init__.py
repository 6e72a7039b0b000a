"""Many backends as one: each of these is a backend that holds backends."""

from llama4sdk.routing.balanced import Balanced
from llama4sdk.routing.breaker import Breaker
from llama4sdk.routing.fallback import Fallback
from llama4sdk.routing.hedged import Hedged
from llama4sdk.routing.limited import Limited
from llama4sdk.routing.limiter import Limiter

__all__ = ["Balanced", "Breaker", "Fallback", "Hedged", "Limited", "Limiter"]
