"""What all tests share."""

from __future__ import annotations

import os

# The suite runs offline: nothing may ask a model hub for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Each of the suite's processes computes in one thread: as many run side by side as there are cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
