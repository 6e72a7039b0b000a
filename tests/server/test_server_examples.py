"""The examples of serving, of clients, and the notebook, run as a newcomer would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("LLAMA4_", "PYTHONWARNINGS"))}
SHOWS = {
    "openai_client": ("Paris", "1, 2, 3, 4, 5, 6", "Sum(result="),
    "pydantic_ai_app": ("get_weather('Paris')", "21", "1, 2, 3, 4, 5, 6"),
    "langchain_app": ("Paris", "get_weather('Paris')", "21"),
}


@pytest.mark.parametrize("name", SHOWS)
def test_the_clients_example_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    for shown in SHOWS[name]:
        assert shown in done.stdout


async def test_the_web_application_answers_streams_and_serves_the_chat_page() -> None:
    command = [sys.executable, str(EXAMPLES / "web_app.py"), "--port", "0"]
    async with await anyio.open_process(command, stderr=subprocess.STDOUT, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        written = ""
        while "/ask" not in written:  # behind the warning that no guards are configured
            written += (await process.stdout.receive()).decode()
        url = next(line for line in written.splitlines() if "/ask" in line).partition("/ask")[0]
        assert "GuardsMissing" in written
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            text = (await client.post("/ask", content="What is 17 + 25?")).text
            total = (await client.post("/sum", content="What is 17 + 25?")).json()
            page = await client.get("/llm/")
            models = (await client.get("/llm/v1/models")).json()
            refused = await client.post("/sum", content="one two " * 9000)
        process.terminate()
        with anyio.fail_after(60):
            assert await process.wait() == 0
    assert text == "17 + 25 = 42.\n"
    assert isinstance(total["result"], int)
    assert "<title>llama4sdk chat</title>" in page.text
    assert models["data"][0]["id"] == "nano"
    assert refused.status_code == 400


def test_the_notebook_runs_from_its_first_cell_to_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    done = NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [
        str(output.get("text") or output.get("data", {}).get("text/plain", ""))
        for cell in done.cells
        for output in cell.get("outputs", ())
    ]
    shown = "\n".join(outputs)
    for words in ("17 + 25 = 42.", "1, 2, 3, 4, 5, 6", "A red circle and a blue square.", "Sum(result=", "Paris"):
        assert words in shown
