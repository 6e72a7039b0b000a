"""Scanners of code, each run as a subprocess over one folder; their own reports tell which files they read."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import anyio

from llama4sdk.errors import ServerFault

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

Severity: TypeAlias = Literal["low", "medium", "high"]
_OWN_RULES: Final = Path(__file__).parent / "code_rules"  # of faults that codeshield's rules leave out
SEVERITIES: Final[tuple[Severity, ...]] = ("low", "medium", "high")
# Severities as scanners write them, in any case.
_RANKS: Final[dict[str, Severity]] = {
    "info": "low",
    "low": "low",
    "undefined": "low",
    "warning": "medium",
    "medium": "medium",
    "error": "high",
    "high": "high",
    "critical": "high",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in a scanned file."""

    file: str
    rule: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a scan.

    Args:
        files: Names of the files that the scanner read to their end.
        faults: The faults in them.
    """

    files: frozenset[str]
    faults: tuple[Fault, ...]


class Scanner(Protocol):
    """Scans the files of a folder."""

    def reads(self, language: str) -> bool:
        """Return whether it reads a language."""
        ...

    async def scan(self, folder: Path, languages: Sequence[str]) -> Report:
        """Scan a folder's files.

        Raises:
            ServerFault: The scanner fails, or its report cannot be read.
        """
        ...


class Bandit:
    """Bandit, for Python; installed with the extra `guards`."""

    @staticmethod
    def installed() -> bool:
        """Return whether it can be run."""
        return find_spec("bandit") is not None

    def reads(self, language: str) -> bool:
        """Return whether it reads a language: Python alone."""
        return language == "python"

    async def scan(self, folder: Path, languages: Sequence[str]) -> Report:
        """Scan the Python files; those with syntax errors do not count as read."""
        del languages
        # Comments that silence a scanner are the author's own, here the model's.
        tree = await _json_of(
            [sys.executable, "-m", "bandit", "-q", "--ignore-nosec", "-f", "json", "-r", str(folder)], folder
        )
        with _reading("bandit"):
            broken = {Path(error["filename"]).name for error in tree["errors"]}
            read = {Path(name).name for name in tree["metrics"] if name != "_totals"} - broken
            faults = tuple(
                Fault(Path(one["filename"]).name, one["test_name"], _RANKS.get(one["issue_severity"].lower(), "high"))
                for one in tree["results"]
            )
            return Report(frozenset(read), faults)


class Semgrep:
    """Semgrep with the rules of the package `codeshield`, and a few of our own beside them.

    Args:
        program: Path of `semgrep`.
        rules: Folder with a subfolder of rules for each language.
    """

    def __init__(self, program: str, rules: Path) -> None:
        self._program = program
        self._rules = rules

    @classmethod
    def installed(cls, program: str | None = None, rules: Path | None = None) -> Semgrep | None:
        """Return the one that is installed; None where program or rules are missing."""
        program = program or shutil.which("semgrep") or shutil.which("semgrep", path=str(Path(sys.executable).parent))
        if rules is None and (spec := find_spec("codeshield")) is not None and spec.submodule_search_locations:
            package = Path(next(iter(spec.submodule_search_locations)))
            rules = package / "insecure_code_detector" / "rules" / "semgrep"
        return cls(program, rules) if program and rules is not None and rules.is_dir() else None

    def reads(self, language: str) -> bool:
        """Return whether there are rules for a language."""
        return bool(self.configs(language))

    async def scan(self, folder: Path, languages: Sequence[str]) -> Report:
        """Scan the files with the rules of some languages; those with syntax errors do not count as read."""
        command = [self._program, "scan", "--json", "--metrics=off", "--disable-version-check", "--no-git-ignore"]
        command += ["--disable-nosem"]
        for config in dict.fromkeys(path for language in languages for path in self.configs(language)):
            command += ["--config", str(config)]
        tree = await _json_of([*command, str(folder)], folder)
        with _reading("semgrep"):
            return _semgrep_report(tree)

    def configs(self, language: str) -> list[Path]:
        """Return the files of rules for a language."""
        own = [path for path in sorted(_OWN_RULES.glob("*.json")) if language in path.stem.split("_")]
        together = self._rules / "_generated_" / f"{language}_codeshield.json"
        if together.is_file():
            return [together, *own]
        return sorted([*self._rules.glob(f"{language}/**/*.yaml"), *self._rules.glob(f"{language}/**/*.yml")])


def _semgrep_report(tree: dict[str, Any]) -> Report:
    skipped = {Path(one["path"]).name for one in tree["paths"].get("skipped") or ()}
    broken = {Path(error["path"]).name for error in tree["errors"] if error.get("path")} | skipped
    read = frozenset(Path(name).name for name in tree["paths"]["scanned"]) - broken
    if any(_ends_the_scan(error) for error in tree["errors"]):
        read = frozenset()
    faults = tuple(
        Fault(
            Path(one["path"]).name,
            str(one["check_id"]).rpartition(".")[2],
            _RANKS.get(str(one["extra"].get("severity")).lower(), "high"),
        )
        for one in tree["results"]
    )
    return Report(read, faults)


def _ends_the_scan(error: dict[str, Any]) -> bool:
    """Return whether an error is of the whole scan, rather than of a file, or of a rule that semgrep does not know."""
    return not error.get("path") and not error.get("rule_id") and error.get("level") not in ("warn", "info")


@contextmanager
def _reading(name: str) -> Generator[None]:
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise ServerFault(f"The scanner {name} gave a report of another form.") from error


async def _json_of(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a scanner and return its report; the process ends with a cancelled caller."""
    name = Path(command[0] if command[1:2] != ["-m"] else command[2]).name
    environment = {
        "PATH": os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)]),
        "HOME": str(folder.parent),
        "SEMGREP_SETTINGS_FILE": str(folder.parent / "semgrep.yml"),
        "SEMGREP_SEND_METRICS": "off",
        "PYTHONUTF8": "1",
    }
    try:
        result = await anyio.run_process(command, check=False, cwd=folder, env=environment)
    except OSError as error:
        raise ServerFault(f"The scanner {name} cannot be run: {error.strerror}.") from error
    try:
        tree = json.loads(result.stdout)
    except ValueError as error:
        raise ServerFault(f"The scanner {name} gave no report (status {result.returncode}).") from error
    if not isinstance(tree, dict):
        raise ServerFault(f"The scanner {name} gave a report of another form.")
    return tree
