"""System protections: guards around every turn, which prove the extent of their inspection.

    llama = Llama4("local", guards=[PatternGuard(secrets=True), LlamaGuard("http://127.0.0.1:8001/v1")])

A guard is a smoke alarm, not a lock; see the page on protections in the documentation.
"""

from llama4sdk.errors import GuardBlocked, GuardsMissing, GuardUnavailable
from llama4sdk.events import GuardFlag
from llama4sdk.guards.automatic import automatic_guards, configured_guards, guards_named
from llama4sdk.guards.code_shield import CodeShield
from llama4sdk.guards.guarded import Guarded
from llama4sdk.guards.guarding import Guarding
from llama4sdk.guards.harms import HARMS
from llama4sdk.guards.hidden import HiddenCharacters
from llama4sdk.guards.llama_guard import LlamaGuard
from llama4sdk.guards.patterns import PatternGuard
from llama4sdk.guards.policy import GuardPolicy
from llama4sdk.guards.prompt_guard import PromptGuard
from llama4sdk.guards.protocol import Guard, Item
from llama4sdk.verdict import Action, Coverage, Redaction, Share, Stage, Status, Verdict

__all__ = [
    "HARMS",
    "Action",
    "CodeShield",
    "Coverage",
    "Guard",
    "GuardBlocked",
    "GuardFlag",
    "GuardPolicy",
    "GuardUnavailable",
    "Guarded",
    "Guarding",
    "GuardsMissing",
    "HiddenCharacters",
    "Item",
    "LlamaGuard",
    "PatternGuard",
    "PromptGuard",
    "Redaction",
    "Share",
    "Stage",
    "Status",
    "Verdict",
    "automatic_guards",
    "configured_guards",
    "guards_named",
]
