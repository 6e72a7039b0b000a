"""For tests: a backend that follows a script, the promises of every backend, a server that misbehaves.

`conformance` needs pytest; the rest needs nothing beyond the SDK.
"""

from llama4sdk.testing.scripted import ScriptedBackend

__all__ = ["ScriptedBackend"]
