"""lm-evaluation-harness itself against the server: `local-completions`, by log-likelihood and by generation.

Its package brings fifty others: the dependency group `evaluation`. The suite asks as it asks in
`test_log_likelihood.py`; with `LLAMA4_LONG=1`, where it is installed, it runs here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from llama4_local.nano import CHECKPOINT
from llama4sdk import Llama4
from llama4sdk.server import create_app, running
from long_runs import only_long

pytestmark = [
    only_long("lm-eval takes a minute"),
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="lm-eval is not installed: pip install --group evaluation",
    ),
]


async def test_nano_is_scored_by_log_likelihood_and_by_generation(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    async with Llama4("local") as llama, running(create_app(llama)) as server:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("evaluating.py")),
            f"{server.url}/v1",
            str(CHECKPOINT),
            str(tmp_path),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        shown, _ = await program.communicate()
    scores = json.loads(shown.decode().splitlines()[-1])
    assert scores == {"log_likelihood": 1.0, "generation": 1.0}
