"""Code in answers and tool calls, scanned for insecure patterns."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from llama4sdk.errors import BackendMissing, InvalidRequest
from llama4sdk.guards.code_blocks import CodeBlock, Language, code_blocks, code_in_call, has_blocks
from llama4sdk.guards.protocol import checked_stages
from llama4sdk.guards.scanners import SEVERITIES, Bandit, Fault, Scanner, Semgrep, Severity
from llama4sdk.verdict import Action, Coverage, Stage, Verdict
from llama4sdk.worker_thread import run_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama4sdk.guards.protocol import Item

_REMEMBERED: Final = 512  # blocks
_CANARY: Final = (
    "import subprocess\n\n\ndef run(command):\n    subprocess.call(command, shell=True)\n    return eval(command)\n"
)
_BENIGN: Final = 'def greet(name):\n    return f"Hello, {name}!"\n'


class CodeShield:
    """Scans fenced code of known languages in answers, and code in the arguments of tool calls.

    The scanners run as subprocesses over a temporary folder of their own: `bandit` for Python, and semgrep with the
    rules of the package `codeshield` where both are installed. A block that no scanner reports as read is not covered,
    so the guard has no verdict: code with syntax errors, or in a language without a scanner.

    Args:
        block_at: The least severity that blocks; faults below it flag.
        arguments: Names of the arguments of tool calls that hold code.
        stages: The stages to check.
        semgrep: Path of the program; found on the PATH when left out.
        rules: Folder of semgrep rules by language; those of `codeshield` when left out.
        name: The guard's name.

    Raises:
        BackendMissing: No scanner is installed.
    """

    sees_images = False

    def __init__(
        self,
        *,
        block_at: Severity = "medium",
        arguments: Sequence[str] = ("code", "source", "script", "program"),
        stages: Sequence[Stage] = ("tool_call", "output"),
        semgrep: str | None = None,
        rules: str | Path | None = None,
        name: str = "code-shield",
    ) -> None:
        if block_at not in SEVERITIES:
            raise InvalidRequest(f"block_at is one of {', '.join(SEVERITIES)}; got {str(block_at)[:80]!r}.")
        self.name = name
        self.stages: tuple[Stage, ...] = checked_stages(stages)
        self._block_at = SEVERITIES.index(block_at)
        self._arguments = tuple(arguments)
        other = Semgrep.installed(semgrep, None if rules is None else Path(rules))
        self._scanners: list[Scanner] = [*([Bandit()] if Bandit.installed() else []), *([other] if other else [])]
        if not self._scanners:
            raise BackendMissing("CodeShield needs a scanner. Install one with: pip install 'llama4sdk[guards]'")
        self._scanned: OrderedDict[bytes, tuple[Fault, ...]] = OrderedDict()

    async def check(self, item: Item) -> Verdict:
        """Return `block` or `flag` where a scanner reports faults; wait for a block whose fence is still open.

        Raises:
            ServerFault: A scanner fails.
        """
        blocks = await self._blocks(item)
        if not item.final and blocks and not blocks[-1].closed:
            cleared = [block for block in blocks if block.closed and block.start < blocks[-1].start]
            return await self._verdict(item, cleared, upto=blocks[-1].start)
        return await self._verdict(item, [block for block in blocks if block.code], upto=len(item.text))

    async def _blocks(self, item: Item) -> list[CodeBlock]:
        if item.call is not None:
            return await run_in_daemon_thread(partial(code_in_call, item.call, self._arguments))
        if not has_blocks(item.text):
            return []
        return await run_in_daemon_thread(partial(code_blocks, item.text))

    async def selftest(self) -> bool:
        """Return whether every scanner catches a canary and passes a benign file, and reports both as read."""
        python = Language("python", ".py")
        blocks = [CodeBlock(python, _CANARY), CodeBlock(python, _BENIGN)]
        for scanner in self._scanners:
            if scanner.reads("python"):
                faults, read = await _scan(blocks, [scanner])
                if read != {0, 1} or not faults[0] or faults[1]:
                    return False
        return True

    async def _verdict(self, item: Item, blocks: list[CodeBlock], *, upto: int) -> Verdict:
        keys = [_key(block) for block in blocks]
        fresh = [place for place, key in enumerate(keys) if key not in self._scanned]
        unread = 0
        if fresh:
            faults, read = await _scan([blocks[place] for place in fresh], self._scanners)
            for number, place in enumerate(fresh):
                if number in read:
                    self._remember(keys[place], tuple(faults[number]))
            unread = len(fresh) - len(read)
        known = [self._scanned.get(key, ()) for key in keys]
        every = [fault for faults in known for fault in faults]
        worst = max((SEVERITIES.index(fault.severity) for fault in every), default=-1)
        action: Action = "block" if worst >= self._block_at else "flag" if every else "allow"
        coverage = Coverage(
            (upto, len(item.text)), (1, 1), (len(item.images), len(item.images)), (len(blocks) - unread, len(blocks))
        )
        categories = tuple(dict.fromkeys(fault.rule for fault in every))
        waiting = upto < len(item.text)
        return Verdict(action, "waiting" if waiting else "done", categories, coverage=coverage)

    def _remember(self, key: bytes, faults: tuple[Fault, ...]) -> None:
        self._scanned[key] = faults
        if len(self._scanned) > _REMEMBERED:
            self._scanned.popitem(last=False)


def _key(block: CodeBlock) -> bytes:
    return hashlib.sha256(f"{block.language.name}\0{block.code}".encode(errors="surrogatepass")).digest()


async def _scan(blocks: Sequence[CodeBlock], scanners: Sequence[Scanner]) -> tuple[list[list[Fault]], set[int]]:
    """Write blocks as files and scan them; return the faults of each, and the places of those that were read."""
    faults: list[list[Fault]] = [[] for _ in blocks]
    read: set[int] = set()
    for scanner in scanners:
        readable = {place: block for place, block in enumerate(blocks) if scanner.reads(block.language.name)}
        if not readable:
            continue
        names = {f"block{place}{block.language.suffix}": place for place, block in readable.items()}
        place_of = await run_in_daemon_thread(partial(_written, readable))
        try:
            languages = list(dict.fromkeys(block.language.name for block in readable.values()))
            report = await scanner.scan(Path(place_of.name) / "code", languages)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_daemon_thread(place_of.cleanup)
        read |= {names[name] for name in report.files if name in names}
        for fault in report.faults:
            if fault.file in names:
                faults[names[fault.file]].append(fault)
    return faults, read


def _written(blocks: dict[int, CodeBlock]) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="llama4sdk-code-")
    code = Path(folder.name) / "code"
    code.mkdir()
    for place, block in blocks.items():
        (code / f"block{place}{block.language.suffix}").write_text(block.code, encoding="utf-8", errors="replace")
    return folder
