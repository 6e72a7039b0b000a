"""llama4sdk talks to Llama 4 — chat, images, streams — wherever the model runs.

    from llama4sdk import Llama4

    async with Llama4() as llama:
        reply = await llama.chat("What is 17 + 25?")

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

    from llama4sdk.backend import Backend, Capabilities
    from llama4sdk.client import Llama4
    from llama4sdk.errors import (
        BackendMissing,
        BadKey,
        CheckpointError,
        ContextOverflow,
        DeadlineExceeded,
        GuardBlocked,
        GuardsMissing,
        GuardUnavailable,
        ImageError,
        InvalidRequest,
        LlamaError,
        ModelRetired,
        OutputInvalid,
        Overloaded,
        ProtocolError,
        Rejected,
        ServerFault,
        StreamInterrupted,
        ToolFailed,
        TooManyImages,
        Unreachable,
        UrlBlocked,
    )
    from llama4sdk.events import (
        Done,
        Event,
        GuardFlag,
        Partial,
        Progress,
        Started,
        Switched,
        TextDelta,
        TokenLogprob,
        ToolCallDelta,
        ToolCallReady,
        ToolCallStarted,
        Usage,
        UsageUpdate,
    )
    from llama4sdk.messages import (
        AssistantMessage,
        Image,
        Message,
        SystemMessage,
        Text,
        ToolCall,
        ToolMessage,
        UserMessage,
    )
    from llama4sdk.reply import Reply
    from llama4sdk.request import Deadlines, OutputSpec, Request, ToolSpec
    from llama4sdk.run import Run, RunStream, ToolBegun, ToolEnded
    from llama4sdk.sampling import Sampling
    from llama4sdk.session import Session
    from llama4sdk.stream import Stream
    from llama4sdk.timing import Timing

_HOMES = {
    "backend": "Backend Capabilities",
    "client": "Llama4",
    "errors": (
        "BackendMissing BadKey CheckpointError ContextOverflow DeadlineExceeded GuardBlocked GuardUnavailable "
        "GuardsMissing ImageError InvalidRequest LlamaError ModelRetired OutputInvalid Overloaded ProtocolError "
        "Rejected ServerFault StreamInterrupted ToolFailed TooManyImages Unreachable UrlBlocked"
    ),
    "events": (
        "Done Event GuardFlag Partial Progress Started Switched TextDelta TokenLogprob ToolCallDelta ToolCallReady "
        "ToolCallStarted Usage UsageUpdate"
    ),
    "messages": "AssistantMessage Image Message SystemMessage Text ToolCall ToolMessage UserMessage",
    "reply": "Reply",
    "request": "Deadlines OutputSpec Request ToolSpec",
    "run": "Run RunStream ToolBegun ToolEnded",
    "sampling": "Sampling",
    "session": "Session",
    "stream": "Stream",
    "timing": "Timing",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("llama4sdk")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AssistantMessage",
    "Backend",
    "BackendMissing",
    "BadKey",
    "Capabilities",
    "CheckpointError",
    "ContextOverflow",
    "DeadlineExceeded",
    "Deadlines",
    "Done",
    "Event",
    "GuardBlocked",
    "GuardFlag",
    "GuardUnavailable",
    "GuardsMissing",
    "Image",
    "ImageError",
    "InvalidRequest",
    "Llama4",
    "LlamaError",
    "Message",
    "ModelRetired",
    "OutputInvalid",
    "OutputSpec",
    "Overloaded",
    "Partial",
    "Progress",
    "ProtocolError",
    "Rejected",
    "Reply",
    "Request",
    "Run",
    "RunStream",
    "Sampling",
    "ServerFault",
    "Session",
    "Started",
    "Stream",
    "StreamInterrupted",
    "Switched",
    "SystemMessage",
    "Text",
    "TextDelta",
    "Timing",
    "TokenLogprob",
    "TooManyImages",
    "ToolBegun",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallReady",
    "ToolCallStarted",
    "ToolEnded",
    "ToolFailed",
    "ToolMessage",
    "ToolSpec",
    "Unreachable",
    "UrlBlocked",
    "Usage",
    "UsageUpdate",
    "UserMessage",
]
