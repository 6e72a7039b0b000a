"""Llama 4 behind an HTTP server: vLLM, NIM, SGLang, llama.cpp, transformers, and whatever speaks the OpenAI wire.

HttpBackend    the backend
Retries        which failures are sent again, and how often
Profile        the fields that one kind of server takes
open_backend   what `Llama4("http://…")` calls
"""

from __future__ import annotations

from typing import Any

from llama4_http.backend import HttpBackend
from llama4_http.profiles import Profile
from llama4_http.retry import Retries
from llama4sdk.errors import InvalidRequest

__all__ = ["HttpBackend", "Profile", "Retries", "open_backend"]


def open_backend(target: str, **options: Any) -> HttpBackend:
    """Return the backend for a server's address; options as `HttpBackend` takes them.

    Raises:
        InvalidRequest: For an unknown option, or an address that cannot be used.
    """
    if "base_url" in options:
        raise InvalidRequest("The address is the first argument, as in Llama4('http://…/v1'); leave base_url out.")
    return HttpBackend(target, **options)
