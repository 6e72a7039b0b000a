"""What all tests share."""

from __future__ import annotations

import os

# The suite runs offline: nothing may ask a model hub for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
