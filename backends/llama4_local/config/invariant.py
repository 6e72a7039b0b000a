"""The error for a broken invariant of the runtime itself."""

from __future__ import annotations


class BrokenInvariant(RuntimeError):
    """The runtime called itself in a way that its own code excludes; never the fault of a request.

    Inside a step it ends the requests of that step with `ServerFault`.
    """
