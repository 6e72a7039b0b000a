"""mypy and pyright, both strict, read the types of answers and every snippet of the documentation alike."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snippet_modules import PAGES, ROOT, module_of

ANSWERS = Path(__file__).with_name("answers.py")
REVEALED = re.compile(r"reveal_type\(.*\)  # (?P<type>.+)$")
SETTINGS = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "venvPath": str(ROOT),
    "venv": ".venv",
    "extraPaths": [str(ROOT / "src"), str(ROOT / "backends")],
    "reportMissingTypeStubs": False,
}


def mypy(files: list[Path], folder: Path) -> tuple[int, str]:
    """Return the exit status and the report of mypy; errors of what the files import do not count."""
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version=3.11", "--follow-imports=silent"]
    command += [
        "--no-error-summary",
        "--disable-error-code=empty-body",
        "--hide-error-context",
        "--cache-dir",
        str(folder.parent / "mypy-cache"),  # shared: what both runs import takes most of the time
        *map(str, files),
    ]
    paths = {"MYPYPATH": f"{ROOT / 'src'}:{ROOT / 'backends'}", "PATH": "", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=paths, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def pyright(files: list[Path], folder: Path) -> list[dict[str, object]]:
    """Return the diagnostics of pyright."""
    settings = folder / "pyrightconfig.json"
    (folder / "read").mkdir()
    for file in files:
        shutil.copy(file, folder / "read")
    settings.write_text(json.dumps({**SETTINGS, "include": ["read"]}))
    command = [sys.executable, "-m", "pyright", "--project", str(settings), "--outputjson"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["generalDiagnostics"]


def told(kind: str) -> str:
    """Return a type in the one spelling that both are compared in."""
    kind = re.sub(r"TypedDict\(([\w.]+), \{[^}]*\}\)", r"\1", kind)
    kind = re.sub(r"\b(?:\w+\.)+(?=\w)", "", kind)
    parts = re.findall(r"Literal\['[^\]]*'\](?: \| Literal\['[^\]]*'\])+|Literal\[\d\](?: \| Literal\[\d\])+", kind)
    for part in parts:
        kind = kind.replace(part, f"Literal[{', '.join(re.findall(r'Literal.([^]]*).', part))}]")
    return kind


@pytest.fixture
def expected() -> dict[int, str]:
    lines = ANSWERS.read_text(encoding="utf-8").splitlines()
    places = {number: REVEALED.search(line) for number, line in enumerate(lines, start=1)}
    return {number: match["type"] for number, match in places.items() if match}


def test_mypy_reveals_the_types_of_answers(expected: dict[int, str], tmp_path: Path) -> None:
    status, report = mypy([ANSWERS], tmp_path)
    assert status == 0, report
    revealed = re.findall(r":(\d+): note: Revealed type is \"(.*)\"", report)
    assert {int(line): told(kind) for line, kind in revealed} == expected


def test_pyright_reveals_the_types_of_answers(expected: dict[int, str], tmp_path: Path) -> None:
    revealed: dict[int, str] = {}
    for each in pyright([ANSWERS], tmp_path):
        assert each["severity"] == "information", each
        place = each["range"]
        assert isinstance(place, dict)
        revealed[place["start"]["line"] + 1] = str(each["message"]).rpartition(' is "')[2].removesuffix('"')
    assert {line: told(kind) for line, kind in revealed.items()} == expected


@pytest.fixture
def modules(tmp_path: Path) -> list[Path]:
    files: list[Path] = []
    for page in PAGES:
        if "```python" in page.read_text(encoding="utf-8"):
            files.append(tmp_path / f"{page.parent.name}_{page.stem}.py".replace("-", "_"))
            files[-1].write_text(module_of(page), encoding="utf-8")
    assert len(files) > 10
    return files


def test_mypy_accepts_every_snippet(modules: list[Path], tmp_path: Path) -> None:
    status, report = mypy(modules, tmp_path)
    assert status == 0, report


def test_pyright_accepts_every_snippet(modules: list[Path], tmp_path: Path) -> None:
    problems = [each for each in pyright(modules, tmp_path) if each["severity"] == "error"]
    assert not problems, json.dumps(problems, indent=1)
