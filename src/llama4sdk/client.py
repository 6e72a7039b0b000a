"""The face: `Llama4`, the one object that an application holds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, cast, runtime_checkable

import anyio

from llama4sdk.backend import Backend, Capabilities
from llama4sdk.errors import InvalidRequest
from llama4sdk.messages import Image, Prompt, UserMessage, conversation
from llama4sdk.registry import open_backend
from llama4sdk.reply import Reply
from llama4sdk.request import Deadlines, Request, Sampling, ToolChoice, ToolSpec
from llama4sdk.stream import Stream

if TYPE_CHECKING:
    from llama4sdk.prompting import PromptTemplate, Rendered, TokenCount

ImageLike: TypeAlias = "Image | str | bytes | os.PathLike[str] | object"
ToolLike: TypeAlias = "ToolSpec | Mapping[str, Any]"


@runtime_checkable
class Renders(Protocol):
    """A backend that knows its model's tokenizer, and can therefore show and count prompts."""

    @property
    def prompt_template(self) -> PromptTemplate:
        """The model's template; raises `InvalidRequest` where it has none."""
        ...


class Llama4:
    """Talks to Llama 4, wherever it runs.

        async with Llama4() as llama:                      # the bundled nano model, in this process
            reply = await llama.chat("What is 17 + 25?")
            print(reply.text)

    Args:
        backend: A backend, or a string that names one: `local`, `local:/models/scout`,
            `http://127.0.0.1:8000/v1`. Left out, the environment's `LLAMA4_BACKEND`, else `local`.
        options: Handed to the backend that a string names.

    Raises:
        BackendMissing: When no such backend is installed.
        InvalidRequest: When options are given beside a ready backend.
    """

    def __init__(self, backend: str | Backend | None = None, /, **options: object) -> None:
        self._started = False
        self._closed = False
        chosen = backend if backend is not None else os.environ.get("LLAMA4_BACKEND") or "local"
        if isinstance(chosen, str):
            self._backend = open_backend(chosen, **options)
            return
        if options:
            raise InvalidRequest(f"Options ({', '.join(options)}) go to the backend itself when you make it yourself.")
        if not isinstance(cast("object", chosen), Backend):
            raise InvalidRequest("A backend is a name or an object that keeps the Backend protocol.")
        self._backend = chosen

    @property
    def backend(self) -> Backend:
        """What runs the model."""
        return self._backend

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do."""
        return self._backend.capabilities

    async def __aenter__(self) -> Self:
        if self._closed or self._started:
            raise InvalidRequest("A client is entered once; make another Llama4(…).")
        self._started = True
        try:
            await self._backend.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what still runs and free everything; may be called twice."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._backend.aclose()

    def __del__(self, warn: Any = warnings.warn) -> None:
        if getattr(self, "_started", False) and not self._closed:
            warn(
                f"{self!r} was dropped without closing; use 'async with'.",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        capabilities = self._backend.capabilities
        return f"Llama4(backend={capabilities.name!r}, model={capabilities.model!r})"

    def stream(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolLike] = (),
        tool_choice: ToolChoice = "auto",
        output: object = None,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> Stream:
        """Return the request as a stream, to be entered with `async with`.

        Args:
            prompt: A string, a message, or a sequence of messages; dicts in the familiar chat form too.
            tools: Tools that the model may call, as `ToolSpec` or in the familiar dict form.
            tool_choice: `auto`, `none`, `required`, or a tool's name.
            output: The form of a typed answer.
            sampling: How tokens are chosen.
            deadlines: How long each phase may take.
            priority: Larger goes first where the backend queues.
            cache_salt: Prompts share cached computation only with the same salt.

        Raises:
            InvalidRequest: When the request cannot be served as it stands.
        """
        self._check_open()
        if output is not None:
            raise InvalidRequest("Typed answers (output=…) are not there yet; ask for JSON in words for now.")
        request = Request(
            conversation(prompt),
            tools=tuple(tool_spec(tool) for tool in tools),
            tool_choice=tool_choice,
            sampling=sampling or Sampling(),
            deadlines=deadlines or Deadlines(),
            priority=priority,
            cache_salt=cache_salt,
        )
        return Stream(self._backend, request)

    async def chat(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolLike] = (),
        tool_choice: ToolChoice = "auto",
        output: object = None,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
    ) -> Reply:
        """Ask, and wait for the whole reply; arguments as in `stream`.

        Raises:
            LlamaError: When the request fails.
        """
        stream = self.stream(
            prompt,
            tools=tools,
            tool_choice=tool_choice,
            output=output,
            sampling=sampling,
            deadlines=deadlines,
        )
        async with stream:
            return await stream.result()

    async def vision(
        self,
        question: str,
        *images: ImageLike,
        sampling: Sampling | None = None,
        deadlines: Deadlines | None = None,
    ) -> Reply:
        """Ask about one or more pictures; the model sees the pictures first, then the question.

        Args:
            question: What to ask.
            images: `Image`, or what an `Image` is made from: path, bytes, PIL image, data URL.
            sampling: How tokens are chosen.
            deadlines: How long each phase may take.

        Raises:
            InvalidRequest: Without a picture, or for one that cannot be read.
            LlamaError: When the request fails.
        """
        if not images:
            raise InvalidRequest("vision() needs at least one picture; for text alone there is chat().")
        pictures = [image if isinstance(image, Image) else Image(image) for image in images]
        return await self.chat(UserMessage([*pictures, question]), sampling=sampling, deadlines=deadlines)

    async def run(self, prompt: Prompt, *, tools: Sequence[object]) -> Reply:
        """Answer with the help of tools, calling them until the model is done. Not there yet.

        Raises:
            InvalidRequest: Always, for now.
        """
        raise InvalidRequest(
            "The tool loop (run) is not there yet; pass tools= to chat() or stream() and read the calls from the text."
        )

    def render(self, prompt: Prompt, *, tools: Sequence[ToolLike] = (), tool_choice: ToolChoice = "auto") -> Rendered:
        """Return the prompt as the model will read it, without any network.

        Decodes pictures, so call it in a worker thread where the loop must not wait.

        Raises:
            InvalidRequest: When the backend knows no tokenizer, or the prompt cannot be rendered.
        """
        if not isinstance(self._backend, Renders):
            raise InvalidRequest(
                f"The backend {self.capabilities.name!r} knows no tokenizer; give it one to render and count prompts."
            )
        specs = tuple(tool_spec(tool) for tool in tools)
        return self._backend.prompt_template.render(prompt, specs, tool_choice=tool_choice)

    def count(self, prompt: Prompt, *, tools: Sequence[ToolLike] = ()) -> TokenCount:
        """Return how many tokens the prompt takes, exactly, before anything is sent.

        Raises:
            InvalidRequest: As `render`.
        """
        return self.render(prompt, tools=tools).count

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest("This client is closed; make another Llama4(…).")
        if not self._started:
            raise InvalidRequest("Enter the client first: async with Llama4() as llama.")


def tool_spec(tool: ToolLike) -> ToolSpec:
    """Return the declaration that a `ToolSpec` or a familiar dict stands for.

    Raises:
        InvalidRequest: For anything else; plain functions are not taken yet.
    """
    if isinstance(tool, ToolSpec):
        return tool
    if not isinstance(tool, Mapping):
        raise InvalidRequest("Functions as tools are not there yet; declare a ToolSpec with its JSON schema.")
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise InvalidRequest('A tool looks like {"type": "function", "function": {"name": "…", "parameters": {…}}}.')
    fields = cast("Mapping[str, Any]", inner)
    parameters = fields.get("parameters") or {"type": "object", "properties": {}}
    return ToolSpec(fields["name"], fields.get("description") or "", parameters)
