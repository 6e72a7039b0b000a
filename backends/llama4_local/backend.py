"""The local backend: the asyncio face of the engine.

No tensor is touched here: prompts are rendered in worker threads, the model runs in the engine's thread.
"""

from __future__ import annotations

import inspect
import os
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from llama4_local.checkpoint.hub import download, hub_name
from llama4_local.config.options import Options
from llama4_local.engine.mailbox import EventLoop
from llama4_local.nano import BUNDLED
from llama4_local.serving.engine_thread import EngineThread
from llama4_local.serving.generation import Generation
from llama4_local.serving.prompt_scores import PromptScores
from llama4_local.serving.readiness import ServedModel, inspect_checkpoint
from llama4_local.serving.sessions import Session, begin, restore
from llama4sdk.backend import BackendLoad, Capabilities
from llama4sdk.checks import shown
from llama4sdk.errors import InvalidRequest
from llama4sdk.image_limits import DEFAULT_LIMITS
from llama4sdk.keywords import check_keywords
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from llama4_local.config.formats import CacheType, DType, HeadType, Speculation, WeightFormat
    from llama4_local.engine.engine import Engine
    from llama4_local.engine.load import EngineLoad
    from llama4_local.engine.mailbox import Outbox
    from llama4_local.engine.request import EngineRequest
    from llama4_local.serving.engine_thread import Build, Report
    from llama4sdk.events import Event, TokenLogprob
    from llama4sdk.image_limits import ImageLimits
    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.prompting.tool_format import ToolsPlace
    from llama4sdk.request import RawPrompt, Request


class LocalBackend:
    """Runs a Llama 4 checkpoint in this process.

        backend = LocalBackend("/models/scout")
        await backend.start()
        async with backend.open(request) as events: …
        await backend.aclose()

    One backend belongs to one event loop and one process. Many requests run at once, batched together.

    Args:
        checkpoint: Folder in Hugging Face form, or a checkpoint's name on the Hugging Face hub with or without
            `@revision`, which `start` downloads into that client's cache; None or `nano` for the bundled nano model,
            `nano-guard` for the bundled guard (`./nano-guard` for a folder of that name).
        device: `auto` (a CUDA device where there is one), or a torch device. With `tensor_parallel`, `cuda` takes the
            first ones, and a list such as `cuda:0,cuda:2` names that of each rank.
        dtype: Type of weights and activations: `float32`, `bfloat16`, `float16`, or `auto` for the one that the
            weights are stored in.
        quantize: `int4` or `fp8` to pack the layers' matrices, None to leave them as they are. The packed form is
            kept beside the checkpoint for the next start. Checkpoints published in FP8 or W4A16 are loaded as they
            are.
        verify: Whether every start compares the checksums of the kept packed form. Left out, the first start that
            reads a file compares it, and later ones trust its size, inode and times.
        cache_dtype: Type of the keys and values that are kept of every token; `auto` for that of the activations.
            `fp8` keeps them in e4m3, a byte each: half the memory for a token against bf16, so twice the tokens.
            Each is rounded to three bits behind its first, by 6% at most, and cut off at ±448; answers differ
            a little, see `docs/quantization.md`. On a CPU it takes time besides.
        head_dtype: `fp8` to pack the output head too, whatever the layers' matrices are in: half its bytes in a step
            for one answer. It is packed at every start.
        memory: Bytes for weights, cache and work together, or a string like `16GB`; by default what is free,
            of which on a CPU the cache takes a quarter at most. The cache never takes more than
            `max_sequences` of `context` tokens need. What does not fit is refused by `start`.
        context: Most tokens that prompt and answer may take together; by default the model's own.
        max_sequences: Most requests that run at once; others wait.
        max_waiting: Most requests that wait; beyond it they are refused with `Overloaded`.
        max_images: Most images in a request.
        step_tokens: Most tokens of a step: more is faster, less keeps streams smoother.
        prefix_caching: Whether prompts that begin alike are computed once; see `Request.cache_salt`.
        deterministic: An answer is the same bits alone and in any company, from start to start on one machine; slower.
            On a Hopper GPU, one tile config of each kernel for any number of tokens; elsewhere, numbers of rows that
            were tried to round alike. Without it an answer may change with what runs beside it. Not with
            `tensor_parallel`.
        cuda_graphs: On a Hopper GPU, whether decoding steps and those with up to 512 tokens of prompts are CUDA graphs,
            captured at load.
        speculate: `prompt_lookup` lets up to four answers that run at once draft their next tokens where their last
            ones occurred before, and confirm several in one step: faster where an answer copies from its prompt or
            repeats itself, with the same text. Not on a Hopper GPU.
        threads: Threads for torch, a setting of the whole process; None leaves it as it is.
        tools_in: Whether tools are declared in the `system` message or in the first `user` message.
        progress: Whether a bar on stderr shows how far packing is; None for one where there is a terminal.
        image_limits: Bounds on the bytes and pixels of images, and on their number beside `max_images`; an `Image` may
            bring bounds of its own. A JPEG of more than 50 million pixels that they allow is decoded at reduced size.
        own_template: Whether prompts are rendered with the checkpoint's own chat template, in a sandbox, rather than in
            the reference's form; so it must be for Llama Guard.
        tensor_parallel: Ranks, each a process with its share of every matrix and of the cache; rank 0 is this process.
            It has to divide the key/value heads and the widths of feed-forwards. See `docs/tensor_parallel.md`.
        expert_parallel: Whether routed experts are whole, each on one of the ranks, which have to divide their number:
            a token's result travels from there, in fewer bytes, and the shared expert is on every rank. The planner
            tells what is gained and taken.
        prompt_template: How to render prompts instead of what the checkpoint's tokenizer says.

    Raises:
        InvalidRequest: For an option that makes no sense.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: DType = "auto",
        quantize: WeightFormat | None = None,
        verify: bool = False,
        cache_dtype: CacheType = "auto",
        head_dtype: HeadType = "auto",
        memory: int | str | None = None,
        context: int | None = None,
        max_sequences: int = 64,
        max_waiting: int = 4096,
        max_images: int = 16,
        step_tokens: int | None = None,
        prefix_caching: bool = True,
        deterministic: bool = False,
        cuda_graphs: bool = True,
        speculate: Speculation | None = None,
        threads: int | None = None,
        tools_in: ToolsPlace = "system",
        progress: bool | None = None,
        own_template: bool = False,
        image_limits: ImageLimits = DEFAULT_LIMITS,
        tensor_parallel: int = 1,
        expert_parallel: bool = False,
        prompt_template: PromptTemplate | None = None,
    ) -> None:
        if not isinstance(checkpoint, str | os.PathLike | None):
            raise InvalidRequest(f"checkpoint is a folder or a name on the hub; got {shown(checkpoint)}.")
        self._engine_thread: EngineThread | None = None
        checkpoint = "nano" if checkpoint is None else checkpoint
        bundled = BUNDLED.get(checkpoint) if isinstance(checkpoint, str) else None
        self._hub_name = hub_name(checkpoint)
        self._folder = bundled or Path(checkpoint).expanduser()
        self._name = str(checkpoint) if bundled else self._hub_name.name if self._hub_name else self._folder.name
        self._options = Options(
            device=device,
            dtype=dtype,
            quantize=quantize,
            verify=verify,
            cache_dtype=cache_dtype,
            head_dtype=head_dtype,
            memory=memory,
            context=context,
            max_sequences=max_sequences,
            max_waiting=max_waiting,
            max_images=max_images,
            step_tokens=step_tokens,
            prefix_caching=prefix_caching,
            deterministic=deterministic,
            cuda_graphs=cuda_graphs,
            speculate=speculate,
            threads=threads,
            tools_in=tools_in,
            progress=progress,
            own_template=own_template,
            image_limits=image_limits,
            tensor_parallel=tensor_parallel,
            expert_parallel=expert_parallel,
        )
        self._template = prompt_template
        self._served: ServedModel | None = None
        self._loop: EventLoop | None = None
        self._process = os.getpid()
        self._closed = False
        self._prompt_scores = PromptScores(self)

    @property
    def name(self) -> str:
        """The model's name: that of its folder."""
        return self._name

    @property
    def folder(self) -> Path:
        """Its checkpoint folder."""
        return self._folder

    @property
    def capabilities(self) -> Capabilities:
        """The checkpoint's capabilities; context and vision are known after `start`."""
        served = self._served
        return Capabilities(
            name="local",
            model=self._name,
            context=served.context if served else None,
            max_images=served.max_images if served else self._options.max_images,
            vision=served is None or served.config.vision is not None,
            structured_output=True,
            seed=True,
            logprobs=True,
            sessions=self._options.prefix_caching,
            raw_prompts=True,
            continues="everything",
            batch_invariant=self._options.deterministic,
            guards=(),
        )

    @property
    def prompt_template(self) -> PromptTemplate:
        """The renderer of prompts.

        Raises:
            InvalidRequest: Before `start`.
        """
        if self._served is None:
            raise InvalidRequest("The tokenizer is known after start(); start the backend first.")
        return self._served.template

    @property
    def load(self) -> EngineLoad | None:
        """The engine's load after its last step; None while it does not run."""
        return self._engine_thread.load if self._engine_thread else None

    @property
    def current_load(self) -> BackendLoad:
        """Its load after the engine's last step; see `ReportsLoad`."""
        load = self.load
        if load is None:
            return BackendLoad(ready=False)
        pages = {"global": load.global_pages, "local": load.local_pages}
        return BackendLoad(True, load.requests - load.waiting, load.waiting, pages)

    async def start(self) -> None:
        """Check the checkpoint's folder, config, headers and tokenizer, and begin to load it in a thread.

        Raises:
            BackendMissing: torch or safetensors is not installed.
            CheckpointError: The folder can never be served; every problem is listed.
            InvalidRequest: The backend was started or closed before, or the process forked.
        """
        self._check_process()
        if self._closed or self._loop is not None:
            raise InvalidRequest("A local backend is started once; make another one.")
        self._loop = EventLoop.current()
        if self._hub_name is not None:
            fetch = partial(download, self._hub_name, progress=self._options.progress)
            self._folder = await run_in_daemon_thread(fetch)
            self._check_open()
        served = await run_in_daemon_thread(partial(inspect_checkpoint, self._folder, self._options, self._template))
        self._check_open()
        self._served = served
        self._engine_thread = EngineThread(_builder(self._folder, self._options, served), self._loop)
        self._engine_thread.start()

    async def ready(self) -> None:
        """Wait until the model is loaded; a request that does not wait shows the loading as `Progress`.

        Raises:
            LlamaError: The reason why it could not be loaded; or the backend is not started, or closed.
        """
        engine_thread, _ = self.running()
        await engine_thread.ask(lambda _: None)

    def open(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Return a block within which the request runs; see `Backend.open`."""
        return Generation(self, request)

    async def score_prompt(self, raw: RawPrompt, *, top: int = 0) -> tuple[TokenLogprob, ...]:
        """Return the log-probability of every token of a prompt; see `ScoresPrompts`.

        Runs between the steps of other requests, in pieces, with a cache of its own.
        """
        return await self._prompt_scores.score(raw, top=top)

    async def session(self, request: Request) -> Session:
        """Compute a request's messages and return the session that keeps them; nothing is answered yet.

        Raises:
            InvalidRequest: The backend runs with `prefix_caching=False`, which sessions are built on.
            LlamaError: As a request does.
        """
        self._check_sessions()
        return await begin(self, request)

    async def restore(self, path: str | os.PathLike[str]) -> Session:
        """Return the session that was saved to a file.

        Raises:
            CheckpointError: The file cannot be read, is no session, or belongs to another checkpoint.
            InvalidRequest: It was computed in another dtype or cache_dtype; or as `session`.
            Overloaded: The cache has no room for it.
        """
        self._check_sessions()
        return await restore(self, path)

    def take_over(self, request: EngineRequest, key: object) -> None:
        """Pin under a session's key the pages that a finished request pinned."""
        if self._engine_thread is not None:
            self._engine_thread.post(lambda engine: engine.session_store.move(request, key))

    def forget(self, key: object) -> bool:
        """Unpin a session's pages; return False where the engine has ended."""
        engine_thread = self._engine_thread
        if engine_thread is None or self._closed or os.getpid() != self._process or engine_thread.ended is not None:
            return False
        engine_thread.post(lambda engine: engine.session_store.unpin(key))
        return True

    def running(self) -> tuple[EngineThread, ServedModel]:
        """Return the engine's thread and the served model.

        Raises:
            LlamaError: Not started, closed, broken down, or called in another event loop or process.
        """
        self._check_process()
        self._check_open()
        if self._engine_thread is None or self._loop is None or self._served is None:
            raise InvalidRequest("Start the backend first: await backend.start().")
        if not self._loop.is_same(EventLoop.current()):
            raise InvalidRequest(
                "This backend belongs to another event loop, perhaps of an earlier asyncio.run(); "
                "make one in the loop that uses it."
            )
        if (reason := self._engine_thread.ended) is not None:
            raise reason
        return self._engine_thread, self._served

    async def aclose(self) -> None:
        """End running requests with an error, and wait for the end of the engine's thread; may be called twice."""
        self._closed = True
        engine_thread = self._engine_thread
        if engine_thread is None or os.getpid() != self._process:
            return
        engine_thread.stop()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(engine_thread.join)

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        engine_thread: EngineThread | None = getattr(self, "_engine_thread", None)  # unset after a refused argument
        if engine_thread is None or self._closed or os.getpid() != self._process:
            return
        engine_thread.stop()  # before the warning, which may be an error
        warn(f"{self!r} was dropped without aclose().", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"LocalBackend({self._name!r})"

    def _check_sessions(self) -> None:
        if not self._options.prefix_caching:
            raise InvalidRequest("Sessions are built on prefix caching; leave prefix_caching=False out.")

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest("This backend is closed; make another one.", backend="local")

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InvalidRequest(
                "This backend was made before the process forked, and its thread stayed behind; make one in the child.",
                backend="local",
            )


def open_backend(target: str = "local", /, **options: Any) -> LocalBackend:
    """Return the backend that `local` or `local:/path/of/a/checkpoint` names.

    Args:
        target: The string as the user wrote it.
        options: Handed to `LocalBackend`.

    Raises:
        InvalidRequest: For an unknown option.
    """
    _, _, path = target.partition(":")
    known = [name for name in inspect.signature(LocalBackend).parameters if name != "checkpoint"]
    check_keywords(options, known, "The local backend")
    return LocalBackend(path or None, **options)


def _builder(folder: Path, options: Options, served: ServedModel) -> Build:
    """Return the function that loads the engine in its thread."""

    def build(outbox: Outbox, report: Report) -> Engine:
        from llama4_local.serving.load_engine import build_engine

        return build_engine(folder, options, served, outbox=outbox, report=report)

    return build
