"""Tools cost nothing until one is declared."""

from __future__ import annotations

import subprocess
import sys


def test_the_client_loads_no_docstring_parser() -> None:
    code = "import sys; from llama4sdk import Llama4, Stream; print('docstring_parser' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"
