"""Code in answers and calls is scanned, and the scanners' own reports are what counts as coverage."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from llama4sdk import GuardBlocked, GuardUnavailable, Llama4, ServerFault
from llama4sdk.guards import CodeShield, GuardPolicy, Item
from llama4sdk.guards.code_blocks import code_blocks, code_in_call
from llama4sdk.guards.scanners import Bandit, Semgrep
from llama4sdk.messages import ToolCall
from llama4sdk.testing import ScriptedBackend

pytest.importorskip("bandit")
PATIENT = GuardPolicy(timeout=120)
BAD = "```python\nimport subprocess\nsubprocess.call(command, shell=True)\n```\n"
GOOD = "```python\nprint('hello')\n```\n"


@pytest.fixture(scope="module")
def shield() -> CodeShield:
    return CodeShield(semgrep="none", rules="none")


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        (GOOD, ["python"]),
        ("~~~js\nx()\n~~~", ["javascript"]),
        ("````py\n```\nx\n```\n````", ["python"]),
        ("> ```ruby\n> x\n> ```", ["ruby"]),
        ("```{.c}\nint x;\n```", ["c"]),
        ("```PYTHON title=x\nx = 1\n```", ["python"]),
        ("```python\nnever closed", ["python"]),
        ("```\nplain\n```\n```java\nclass A {}\n```", ["java"]),
        ("```text\n```python\nx\n```", []),
        ("no code", []),
        ("inline ```python x``` code", []),
    ],
)
def test_fences_are_read_as_markdown_has_them(text: str, languages: list[str]) -> None:
    assert [block.language.name for block in code_blocks(text)] == languages


async def check(shield: CodeShield, text: str, *, final: bool = True) -> tuple[str, str, tuple[int, int]]:
    verdict = await shield.check(Item("output", text, final=final))
    return verdict.action, verdict.status, verdict.coverage.files


async def test_faults_are_blocked_and_sound_code_passes(shield: CodeShield) -> None:
    assert await shield.selftest()
    assert await check(shield, f"Look:\n{BAD}") == ("block", "done", (1, 1))
    assert await check(shield, f"Look:\n{GOOD}") == ("allow", "done", (1, 1))
    assert await check(shield, f"{GOOD}and\n{BAD}") == ("block", "done", (2, 2))
    assert await check(shield, "no code at all") == ("allow", "done", (0, 0))


async def test_an_open_fence_waits_and_is_scanned_at_the_end(shield: CodeShield) -> None:
    opened = BAD.removesuffix("```\n")
    verdict = await shield.check(Item("output", "Look:\n" + opened, final=False))
    assert (verdict.status, verdict.coverage.characters[0]) == ("waiting", len("Look:\n"))
    assert (await check(shield, "Look:\n" + opened))[0] == "block"


async def test_code_with_syntax_errors_is_not_covered(shield: CodeShield) -> None:
    assert (await check(shield, "```python\ndef broken(:\n```"))[2] == (0, 1)


async def test_a_language_without_a_scanner_is_not_covered(shield: CodeShield) -> None:
    assert (await check(shield, "```ruby\nsystem(x)\n```"))[2] == (0, 1)


async def test_prompts_of_an_interactive_session_are_code(shield: CodeShield) -> None:
    text = "```python\n>>> import subprocess\n>>> subprocess.call(x, shell=True)\n0\n```"
    assert (await check(shield, text))[0] == "block"


@pytest.mark.parametrize(
    "arguments", [{"code": "eval(x)"}, {"language": "python", "script": "import pickle\npickle.loads(x)"}]
)
async def test_code_in_the_arguments_of_a_call(shield: CodeShield, arguments: dict[str, str]) -> None:
    call = ToolCall("run", arguments)
    verdict = await shield.check(Item("tool_call", "run …", call=call))
    assert verdict.coverage.files == (1, 1)
    assert verdict.action == "block"


async def test_an_answer_with_a_fault_never_leaves() -> None:
    text = f"Here is code.\n{BAD}It runs."
    async with Llama4(
        ScriptedBackend(text), guards=[CodeShield(semgrep="none", rules="none")], guard_policy=PATIENT
    ) as llama:
        pieces: list[str] = []
        with pytest.raises(GuardBlocked) as caught:
            async with llama.stream("Go") as stream:
                async for piece in stream.text():
                    pieces.append(piece)
    assert "subprocess" not in "".join(pieces)
    assert caught.value.guard == "code-shield"


def fake_semgrep(folder: Path, body: Sequence[str]) -> tuple[str, Path]:
    rules = folder / "rules"
    for language in ("c", "ruby", "java", "php"):
        (rules / language).mkdir(parents=True)
        (rules / language / "a.yaml").write_text("rules: []")
    program = folder / "semgrep"
    program.write_text("\n".join([f"#!{sys.executable}", "import json, sys, pathlib", *body]))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program), rules


READS_ALL = [
    "files = [str(f) for f in pathlib.Path(sys.argv[-1]).iterdir() if f.suffix != '.py']",
    "fault = {'check_id': 'x.y.strcpy', 'extra': {'severity': 'ERROR'}}",
    "bad = [fault | {'path': f} for f in files if 'FAULT' in open(f).read()]",
    "print(json.dumps({'results': bad, 'errors': [], 'paths': {'scanned': files}}))",
]
READS_NOTHING = ["print(json.dumps({'results': [], 'errors': [], 'paths': {'scanned': []}}))"]
BREAKS = ["sys.exit(2)"]


@pytest.mark.parametrize("language", ["c", "ruby", "java", "php"])
async def test_other_languages_are_scanned_by_semgrep(tmp_path: Path, language: str) -> None:
    program, rules = fake_semgrep(tmp_path, READS_ALL)
    shield = CodeShield(semgrep=program, rules=rules)
    assert await check(shield, f"```{language}\nFAULT\n```") == ("block", "done", (1, 1))
    assert await check(shield, f"```{language}\nfine\n```") == ("allow", "done", (1, 1))


@pytest.mark.parametrize("body", [READS_NOTHING, BREAKS])
async def test_a_scan_of_no_file_lets_nothing_through(tmp_path: Path, body: list[str]) -> None:
    program, rules = fake_semgrep(tmp_path, body)
    guard = CodeShield(semgrep=program, rules=rules)
    async with Llama4(ScriptedBackend("```c\nint x;\n```"), guards=[guard], guard_policy=PATIENT) as llama:
        with pytest.raises(GuardUnavailable):
            await llama.chat("Go")


REPORTS_AN_ERROR = [
    "files = [str(f) for f in pathlib.Path(sys.argv[-1]).iterdir()]",
    "errors = [{'type': 'Syntax error', 'level': 'warn', 'path': f} for f in files]",
    "errors += [{'type': 'Rule parse error', 'level': 'error', 'rule_id': 'x'}]",
    "print(json.dumps({'results': [], 'errors': errors, 'paths': {'scanned': files}}))",
]


async def test_a_file_that_semgrep_cannot_parse_is_not_covered(tmp_path: Path) -> None:
    program, rules = fake_semgrep(tmp_path, REPORTS_AN_ERROR)
    assert (await check(CodeShield(semgrep=program, rules=rules), "```c\nint main( {{{\n```"))[2] == (0, 1)


@pytest.mark.parametrize("code", ["eval($_GET['x']);", "<?php eval($_GET['x']);", "<?= eval($_GET['x']) ?>"])
def test_php_is_read_as_code_without_its_opening_tag_too(code: str) -> None:
    (block,) = code_blocks(f"```php\n{code}\n```")
    assert block.code.startswith("<?")
    assert block.code.count("<?") == 1


@pytest.mark.parametrize("language", ["java", "c", "cpp", "javascript", "php", "csharp"])
def test_rules_of_our_own_stand_beside_those_of_codeshield(tmp_path: Path, language: str) -> None:
    (tmp_path / "_generated_").mkdir()
    (tmp_path / "_generated_" / f"{language}_codeshield.json").write_text('{"rules": []}')
    configs = Semgrep("semgrep", tmp_path).configs(language)
    rules = [rule for config in configs for rule in json.loads(config.read_text())["rules"]]
    assert len(configs) == 2
    assert all(language in rule["languages"] and rule["severity"] in ("WARNING", "ERROR") for rule in rules)
    assert rules


@pytest.mark.parametrize(
    "opening",
    ["```python,ignore", "```python:main.py", "```python3.11", "```language-python", "```lang=python", "```main.py",
     "~~~ `python`", "```sage", "```", "```text", "- ```py", "1. ~~~py3", "> ```python"],
)  # fmt: skip
def test_python_is_found_under_any_label(opening: str) -> None:
    before = "> " if opening.startswith(">") else ""
    fence = "~~~" if "~" in opening else "```"
    code = ["import os", "", r"os.system('\d' + x)"]
    text = "\n".join(["Look:", opening, *(before + line for line in code), before + fence, "Done."])
    assert [(block.language.name, block.code) for block in code_blocks(text)] == [("python", "\n".join(code) + "\n")]


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nfoo(1)\n```",
        '```\n{"a": [1, 2]}\n```',
        "```\nsome words\n```",
        "Look:\n\n    - a nested item\n    - another\nDone.",
    ],
)
def test_data_and_words_are_no_python(text: str) -> None:
    assert code_blocks(text) == []


def test_indented_and_nested_code_is_found() -> None:
    for text in (
        "Look:\n\n    import os\n    os.system(x)\n\nDone.",
        "````md\n```py\nimport os\nos.system(x)\n```\n````",
    ):
        assert [block.code.strip() for block in code_blocks(text)] == ["import os\nos.system(x)"]


def test_code_is_found_at_any_depth_of_a_call() -> None:
    code = "import os\nos.system(x)\n"
    for arguments in (
        {"cells": [{"code": code}]},
        {"Code": code},
        {"python_code": code},
        {"code": f"```python\n{code}```"},
        {"text": f"Run this:\n```python\n{code}```"},
        {"code": [code], "language": "Python3"},
    ):
        assert [block.code for block in code_in_call(ToolCall("run", arguments), ("code",))] == [code]
    assert code_in_call(ToolCall("run", {"postal_code": "SW1A 1AA", "note": "call me"}), ("code",)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.system(x)  # nosec",
        "'''\n>>> f()\n'''\nimport os\nos.system(x)",
        "y = '\u2028'\nimport os\nos.system(x)",
    ],
)
def test_comments_prompts_and_odd_line_ends_hide_nothing(code: str) -> None:
    (block,) = code_blocks(f"```python\n{code}\n```")
    assert block.code == f"{code}\n"


async def test_scanners_get_no_comments_that_silence_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    async def run(command: list[str], folder: Path) -> dict[str, object]:
        commands.append(command)
        return {"errors": [], "metrics": {}, "results": [], "paths": {"scanned": []}}

    monkeypatch.setattr("llama4sdk.guards.scanners._json_of", run)
    await Bandit().scan(tmp_path, ["python"])
    await Semgrep("semgrep", tmp_path).scan(tmp_path, ["c"])
    assert "--ignore-nosec" in commands[0]
    assert "--disable-nosem" in commands[1]


@pytest.mark.parametrize(
    ("report", "files"),
    [
        ({"results": [], "errors": [], "paths": {"scanned": ["a.c"], "skipped": [{"path": "a.c"}]}}, 0),
        ({"results": [], "errors": [{"message": "out of memory"}], "paths": {"scanned": ["a.c"]}}, 0),
        ({"results": [], "errors": [{"level": "error", "rule_id": "x"}], "paths": {"scanned": ["a.c"]}}, 1),
        ({"results": None, "errors": [], "paths": {"scanned": []}}, None),
        ({}, None),
    ],
)
async def test_only_what_a_report_shows_as_scanned_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: dict[str, object], files: int | None
) -> None:
    async def run(command: list[str], folder: Path) -> dict[str, object]:
        return report

    monkeypatch.setattr("llama4sdk.guards.scanners._json_of", run)
    if files is None:
        with pytest.raises(ServerFault):
            await Semgrep("semgrep", tmp_path).scan(tmp_path, ["c"])
        return
    assert len((await Semgrep("semgrep", tmp_path).scan(tmp_path, ["c"])).files) == files
