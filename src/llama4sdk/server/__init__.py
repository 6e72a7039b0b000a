"""An OpenAI-compatible server in front of any backend, as an ASGI application; needs the extra `serve`.

app = create_app(Llama4("local"))          # for uvicorn, or app.mount("/llm", create_app(llama)) in FastAPI
serve("local", port=8000)                  # runs until Ctrl-C
"""

from importlib import import_module
from typing import TYPE_CHECKING

from llama4sdk.errors import BackendMissing

if TYPE_CHECKING:
    from llama4sdk.server.app import create_app
    from llama4sdk.server.options import KeyLimits, ServerOptions
    from llama4sdk.server.run_server import running, serve

_HOMES = {
    "create_app": "app",
    "KeyLimits": "options",
    "ServerOptions": "options",
    "running": "run_server",
    "serve": "run_server",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "llama4sdk":
            raise
        raise BackendMissing(
            f"The server needs {error.name}. Install it with: pip install 'llama4sdk[serve]'"
        ) from error
    return getattr(module, name)


__all__ = ["KeyLimits", "ServerOptions", "create_app", "running", "serve"]
