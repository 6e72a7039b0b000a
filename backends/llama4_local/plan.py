"""The planner's command line: `python -m llama4_local.plan scout --memory 141GB --quantize int4 --context 1M`.

The planner itself is `llama4_local.plan(…)`, and lives in `llama4_local.planning`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from llama4_local.planning import Plan, plan
from llama4_local.planning.command import main

__all__ = ["Plan", "main", "plan"]


class _CallableModule(ModuleType):
    """Keeps `llama4_local.plan(…)` a call: importing this module gives the package an attribute of that name."""

    __call__ = staticmethod(plan)


if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__].__class__ = _CallableModule
