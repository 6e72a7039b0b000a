"""The command `llama4`, against scripted backends and nano."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image as Pillow

from benchmarks.bench_agreement import compare
from llama4_local.checkpoint.pull import pull_checkpoint
from llama4sdk import InvalidRequest, Llama4, LlamaError, Overloaded, Request, Unreachable
from llama4sdk.command import app
from llama4sdk.command.bench import measure
from llama4sdk.command.chat import chat_with
from llama4sdk.command.doctor import PROBES, examine, tried
from llama4sdk.command.finding import Finding
from llama4sdk.command.typed_paths import typed_file
from llama4sdk.testing import ScriptedBackend


def llama4(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llama4sdk", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=300, check=False)


def test_nano_answers_each_line_of_the_input() -> None:
    done = llama4("chat", "local", given="What is 17 + 25?\n\nHello!\n")
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[1].startswith("Hello")


def test_an_unknown_backend_ends_in_words() -> None:
    done = llama4("chat", "nonsense", "-p", "Hello!")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("llama4: No backend named 'nonsense'")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["chat", "serve", "plan", "pack", "pull", "doctor", "bench"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["llama4", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_options_of_the_call_go_before_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA4_OPTIONS", "context=64,memory=1GB")
    assert app.target_of(None, ["context=32"], None) == ("local", {"context": 32, "memory": "1GB"})
    assert app.target_of("http://h/v1", ["api-key=x"], "m") == ("http://h/v1", {"api_key": "x", "model": "m"})
    with pytest.raises(InvalidRequest, match="name=value"):
        app.target_of("local", ["context"], None)


def test_a_dialog_keeps_what_was_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Pillow.new("RGB", (4, 4)).save(tmp_path / "a.png")
    backend = ScriptedBackend("[bold]one[/]", "two")
    lines = [f"/image {tmp_path / 'a.png'}", "first", "second", f"/save {tmp_path / 'said.json'}", "/nonsense", "/quit"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert chat_with(backend, {}, system="Be brief.") == 0
    assert capsys.readouterr().out.startswith("[bold]one[/]\ntwo\n")
    first, second = backend.requests
    assert [message.role for message in first.messages] == ["system", "user"]
    assert (len(first.messages[-1].images), len(second.messages[-1].images)) == (1, 0)
    said = json.loads((tmp_path / "said.json").read_text())
    assert [each["content"] for each in said] == ["first", "[bold]one[/]", "second", "two"]


def test_paths_are_taken_as_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "my 'own' cat.png"
    path.touch()
    escaped = str(path).replace(" ", "\\ ").replace("'", "\\'")
    for written in (str(path), f'"{path}"', escaped, f"file://{quote(str(path))}", "~/my 'own' cat.png", f" {path} "):
        assert typed_file(written) == path, written
    for written in ("", "/", "~no-such-user/a.png", "a\0b", "x" * 5000, '"', str(tmp_path)):
        assert typed_file(written) is None, written


def test_what_is_no_image_and_a_place_that_is_none_leave_the_dialog_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    backend = ScriptedBackend("fine")
    lines = [
        f"/image {tmp_path / 'notes.txt'}",
        "/image none.png",
        "/save ~no-such-user/a",
        "/save a\0b",
        "one",
        "a\udcff",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, "two"])))
    assert chat_with(backend, {}) == 1
    shown = capsys.readouterr().out
    assert shown.count("could not be saved") == 2
    assert "no file none.png" in shown
    assert [request.messages[-1].text for request in backend.requests] == ["one", "two"]
    assert not any(message.images for request in backend.requests for message in request.messages)
    monkeypatch.setattr(sys, "stdin", None)
    assert chat_with(backend, {}) == 0
    with pytest.raises(InvalidRequest, match="no file"):
        chat_with(backend, {}, images=[Path("none.png")], prompt="What is it?")
    assert len(backend.requests) == 2


def test_keys_come_from_a_file_and_the_version_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\none\n\n two \n")
    assert app.keys_in(path) == ["one", "two"]
    assert not app.keys_in(None)
    for wrong in (tmp_path, tmp_path / "none", path):
        path.write_text("#\n")
        with pytest.raises(InvalidRequest, match="key"):
            app.keys_in(wrong)
    monkeypatch.setattr(sys, "argv", ["llama4", "--version"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("llama4sdk ")


def test_an_answer_is_written_as_it_came_and_has_no_control_over_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = "all:\n\tmake :100: \x1b[2J\x1b]52;c;cm0=\x07\x9b31m\x7f\r\n"
    assert chat_with(ScriptedBackend(answer), {}, prompt="Write a Makefile.") == 0
    assert capsys.readouterr().out == f"{answer}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert chat_with(ScriptedBackend(answer), {}, prompt="Write a Makefile.") == 0
    assert capsys.readouterr().out == "all:\n\tmake :100: ␛[2J␛]52;c;cm0=␇\N{REPLACEMENT CHARACTER}31m␡\n\n"
    failing = ScriptedBackend([Overloaded("\x1b[2J")])
    assert chat_with(failing, {}, prompt="Hello?") == 1
    assert "\x1b[2J" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cause", "told"), [(RuntimeError("no\x1b room"), "RuntimeError: no␛ room\n"), (KeyError(), "KeyError.\n")]
)
def test_an_error_of_a_backends_own_is_told_with_its_cause(
    cause: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(request: Request) -> str:
        raise cause

    assert chat_with(ScriptedBackend(fail), {}, prompt="Hello?") == 1
    written = "".join(capsys.readouterr())
    assert written.endswith(told)
    assert "__cause__" not in written


def test_an_error_keeps_its_status_where_there_is_no_place_for_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["llama4", "chat", "nothing:"])
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2


def test_a_question_that_fails_is_no_part_of_the_dialog(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = ScriptedBackend([Overloaded("Too busy.")], "fine")
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert chat_with(backend, {}) == 1
    assert "Overloaded: Too busy." in capsys.readouterr().out
    assert [message.text for message in backend.requests[-1].messages] == ["two"]


def test_the_doctor_fails_where_a_limit_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(ScriptedBackend("one two three four"), {}) == 0
    shown = capsys.readouterr().out
    assert "max_tokens" in shown
    assert "unknown" in shown
    assert examine(ScriptedBackend([Overloaded("Too [busy].")]), {}) == 1
    assert "failed" in capsys.readouterr().out


def test_the_doctor_ends_in_words_where_no_server_listens_and_judges_no_template_without_a_tokenizer() -> None:
    with pytest.raises(Unreachable, match="No connection"):
        examine("http://127.0.0.1:9/v1", {"model": "any"})

    async def found() -> Finding:
        return await tried(PROBES["prompt template"], Llama4("http://127.0.0.1:9/v1", model="any"))

    assert asyncio.run(found()).verdict == "unknown"


def test_bench_ends_in_one_error() -> None:
    expected: list[tuple[int, type[LlamaError]]] = [(0, InvalidRequest), (4, Overloaded)]
    for tokens, error in expected:
        backend = ScriptedBackend("ready", [Overloaded("Too busy.")])
        with pytest.raises(error):
            measure(backend, {}, concurrency="3", tokens=tokens, prompt="Go.")


def test_bench_asks_as_often_as_it_is_told() -> None:
    backend = ScriptedBackend("one two three")
    measure(backend, {}, concurrency="1,3", tokens=2, prompt="a")
    assert len(backend.requests) == 1 + 1 + 3
    assert backend.requests[-1].sampling.max_tokens == 2
    with pytest.raises(InvalidRequest, match="concurrency"):
        measure(backend, {}, concurrency="1,x", tokens=2, prompt="a")


async def test_bench_agrees_with_a_clock_below_the_client() -> None:
    differences: list[float] = []
    for _ in range(3):  # a busy machine may hold the loop up between one clock and the other, but not every time
        rows = await compare(ScriptedBackend("a b c d e f g h", pause=0.03), [1, 4], tokens=8)
        assert [row["streams"] for row in rows] == [1, 4]
        differences.append(max(row["largest difference"] for row in rows))
        if differences[-1] < 0.15:
            return
    pytest.fail(f"the clocks differ: {differences}")


def test_what_is_no_name_on_the_hub_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no/such name"):
        pull_checkpoint("no/such name", tmp_path)
