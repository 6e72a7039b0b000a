"""The commands and their arguments; each command's work lies in a module of its own, loaded when it runs."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Optional

import typer

from llama4sdk.command.terminal import harmless, in_words
from llama4sdk.environment import backend_named, option_in
from llama4sdk.errors import GuardsMissing, InvalidRequest, LlamaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.guards import Guard

app = typer.Typer(
    name="llama4",
    help="Llama 4 on the command line: in this process, or behind a server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# typer reads these when the commands are declared.
Target = Annotated[
    Optional[str],  # noqa: UP045 - evaluated by typer
    typer.Argument(help="local, local:/models/scout, http://127.0.0.1:8000/v1; left out: LLAMA4_BACKEND, else nano."),
]
Option = Annotated[
    Optional[list[str]],  # noqa: UP045 - evaluated by typer
    typer.Option("--option", "-o", help="An option of the backend, as in -o quantize=int4; may be repeated."),
]
GuardOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--guard", help="As in llama-guard=http://…; may be repeated. Left out: LLAMA4_GUARDS, else nano-guard."
    ),
]
NoGuards = Annotated[bool, typer.Option("--no-guards", help="Check no turn.")]
CheckSystem = Annotated[bool, typer.Option("--check-system", help="Let guards inspect clients' system messages too.")]
Model = Annotated[Optional[str], typer.Option(help="The model's name on a server.")]  # noqa: UP045
_REFUSED = 2  # exit status: what was asked for cannot be done


def main() -> None:
    """Run the command; an error of the SDK ends it in words, with status 2."""
    for stream in (sys.stdin, sys.stdout):  # bytes and characters of another encoding end no dialog
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app()
    except LlamaError as error:
        _end(error, _REFUSED)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # as of an output that goes to a full disk
        _end(error, 1)


def _end(error: Exception, status: int) -> NoReturn:
    """End the program with an error in words, where there is still a place for them."""
    if sys.stderr is not None:
        sys.stderr.write(f"llama4: {harmless(in_words(error))}\n")
    sys.exit(status)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Write that guards are missing in words alone, without a line of code."""
    del file
    in_words = issubclass(category, GuardsMissing)
    sys.stderr.write(
        f"llama4: {message}\n" if in_words else warnings.formatwarning(message, category, filename, lineno, line)
    )


def target_of(backend: str | None, option: list[str] | None, model: str | None) -> tuple[str, dict[str, Any]]:
    """Return the backend's name and options, those of the environment where no backend is named."""
    name, named = backend_named() if backend is None else (backend, {})
    given = dict(option_in(each) for each in option or [])
    return name, {**named, **given, **({"model": model} if model else {})}


def guards_of(guard: list[str] | None, *, none: bool) -> Sequence[Guard] | Literal["auto"] | None:
    """Return the guards of a command: those that are named, else `auto`; None for none.

    Raises:
        InvalidRequest: For a guard that is named in another form.
    """
    from llama4sdk.guards import guards_named

    return None if none else guards_named(guard) if guard else "auto"


def _show_version(asked: bool) -> None:
    if asked:
        from llama4sdk import __version__

        typer.echo(f"llama4sdk {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Llama 4 on the command line: in this process, or behind a server."""
    del version


def keys_in(path: Path | None) -> Sequence[str]:
    """Return the keys in a file, one a line; blank lines and those that begin with # are none.

    Raises:
        InvalidRequest: It cannot be read, or holds no key.
    """
    if path is None:
        return ()
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"The keys in {path} cannot be read: {type(error).__name__}.") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise InvalidRequest(f"There is no key in {path}; write one a line.")
    return keys


@app.command()
def chat(
    backend: Target = None,
    image: Annotated[Optional[list[Path]], typer.Option(help="An image for the first message.")] = None,  # noqa: UP045
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Ask this, print the answer, and end.")] = "",
    model: Model = None,
    option: Option = None,
    guard: GuardOption = None,
    no_guards: NoGuards = False,
) -> None:
    """Chat with a model; Ctrl-C stops an answer, Ctrl-D ends."""
    from llama4sdk.command.chat import chat_with

    name, options = target_of(backend, option, model)
    guards = guards_of(guard, none=no_guards)
    raise typer.Exit(chat_with(name, options, images=image or [], system=system, prompt=prompt, guards=guards))


@app.command()
def serve(
    backend: Target = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 for a free one.")] = 8000,
    api_key: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(envvar="LLAMA4_SERVER_KEYS", help="A key that clients must send; may be repeated."),
    ] = None,
    api_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A file with such keys, one a line, which a list of processes does not show."),
    ] = None,
    chat_page: Annotated[bool, typer.Option("--chat", help="Serve a chat page at /.")] = False,
    model: Model = None,
    option: Option = None,
    guard: GuardOption = None,
    no_guards: NoGuards = False,
    check_system: CheckSystem = False,
) -> None:
    """Serve a backend with OpenAI's API, until Ctrl-C."""
    from llama4sdk.guards import GuardPolicy
    from llama4sdk.server import serve as run_server

    name, options = target_of(backend, option, model)
    run_server(
        name,
        host=host,
        port=port,
        backend_options=options,
        guards=guards_of(guard, none=no_guards),
        guard_policy=GuardPolicy(system="check") if check_system else None,
        announce=lambda url: typer.echo(f"Serving {name} at {url}/v1{f', chat at {url}/' if chat_page else ''}"),
        api_keys=(*(api_key or ()), *keys_in(api_key_file)),
        chat_page=chat_page,
    )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def plan(context: typer.Context) -> None:
    """Show what a model takes in memory, whether it fits, and how fast it can be; on this machine by default."""
    from llama4sdk.command.plugins import command_of

    given = context.args
    named = any(each.startswith(("--machine", "--memory")) for each in given)
    raise typer.Exit(command_of("plan")(given if named or "--help" in given else [*given, "--machine", "this"]))


@app.command()
def pack(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    quantize: Annotated[str, typer.Option(help="int4 or fp8.")] = "int4",
) -> None:
    """Quantize a checkpoint once and keep the packed form beside it, for every later start."""
    from llama4sdk.command.pack import pack_checkpoint

    pack_checkpoint(checkpoint, quantize)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def pull(context: typer.Context) -> None:
    """Download a checkpoint from the Hugging Face hub."""
    from llama4sdk.command.plugins import command_of

    raise typer.Exit(command_of("pull")(context.args))


@app.command()
def doctor(backend: Target = None, model: Model = None, option: Option = None) -> None:
    """Try out what a backend obeys; status 1 where an answer, a stream, a limit or a cancellation fails."""
    from llama4sdk.command.doctor import examine

    name, options = target_of(backend, option, model)
    raise typer.Exit(examine(name, options))


@app.command()
def bench(
    backend: Target = None,
    concurrency: Annotated[str, typer.Option(help="Streams at once, as in 1,8.")] = "1,8",
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 64,
    prompt: Annotated[str, typer.Option(help="The question of every stream.")] = "Tell me about yourself.",
    model: Model = None,
    option: Option = None,
) -> None:
    """Measure the time to the first token and tokens per second."""
    from llama4sdk.command.bench import measure

    name, options = target_of(backend, option, model)
    measure(name, options, concurrency=concurrency, tokens=tokens, prompt=prompt)
