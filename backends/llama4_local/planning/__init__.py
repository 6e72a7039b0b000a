"""Plans the memory and the speed of a model before any of it is loaded.

    plan               what a model takes on a machine, whether it fits, and what to change if not
    check_fits         the same as a check before loading, which refuses
    available_memory   what this machine can still give

None of it needs torch.
"""

from llama4_local.planning.fitting import check_fits
from llama4_local.planning.floors import StepFloor
from llama4_local.planning.host import available_memory
from llama4_local.planning.planner import Plan, plan

__all__ = ["Plan", "StepFloor", "available_memory", "check_fits", "plan"]
