"""Every Python snippet of the documentation runs, page by page, top down.

In the suite a scripted backend stands in for the models, and a server of ours in front of it for those that the pages
name. With LLAMA4_LONG=1 nano is in its place, and the pages run whose snippets need a real model.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as Pictures

import llama4_local
import llama4sdk.server
from docs.standing_in import StandIn
from llama4_http import HttpBackend
from llama4_local import LocalBackend
from llama4sdk import Backend, Image, Llama4, Message, Request, SystemMessage, UserMessage, registry
from llama4sdk.prompting import PromptTemplate, Tokenizer
from llama4sdk.server import ServerOptions, create_app, running
from llama4sdk.testing import ScriptedBackend
from long_runs import LONG
from snippet_modules import PAGES, run_snippet, snippets_of

TEXTS = {page: page.read_text("utf-8") for page in PAGES}
WITH_SNIPPETS = [page for page, text in TEXTS.items() if "```python" in text]
# Sessions, packed weights, ranks and replicas are those of real models and processes.
REAL = {"sessions.md", "quantization.md", "tensor_parallel.md", "beyond-one-machine.md"}
NANO = Path(llama4_local.__file__).parent / "nano" / "checkpoint"
ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|10\.0\.0\.5):\d+/v1|http://…/v1")

MODEL = re.compile(r'model="([^"]+)"')


@pytest.fixture(scope="module")
def template() -> PromptTemplate:
    return PromptTemplate(Tokenizer.from_file(NANO / "tokenizer.json"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, template: PromptTemplate) -> list[str]:
    """Names of local models lead to the stand-in, or to nano; returned are those that were asked for."""
    asked: list[str] = []

    def local(target: str, **options: Any) -> Backend:
        asked.append(target)
        checked = LocalBackend(None, **options)
        return checked if LONG else StandIn(template)

    def load(point: Any) -> Any:
        return local if point.name == "local" else point.load()

    monkeypatch.setattr(registry, "_load", load)
    return asked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a page: the images that it names."""
    for name in ("cat", "a", "b", "shapes"):
        Pictures.new("RGB", (40, 30), "white").save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked_serve(backend: Any = None, *, host: str = "", port: int = 0, **options: Any) -> None:
    """Stand for `serve`, which would not end; its options are checked as it checks them."""
    ServerOptions(**options)


async def names_of_a_page(stack: AsyncExitStack, template: PromptTemplate) -> dict[str, Any]:
    """Return the names that the text around snippets introduces."""
    llama = await stack.enter_async_context(Llama4("local"))
    return {
        "__name__": "snippet",
        "asyncio": asyncio,
        "llama4_local": llama4_local,
        "HttpBackend": HttpBackend,
        "Image": Image,
        "Llama4": Llama4,
        "Request": Request,
        "SystemMessage": SystemMessage,
        "UserMessage": UserMessage,
        "MyBackend": ScriptedBackend,
        "llama": llama,
        "backend": registry.open_backend("local"),
        "dialog": list[Message]([UserMessage("What is 17 + 25?")]),
        "prompts": ["What is 17 + 25?", "Who are you?"],
        "document": "Ada is 36 years old.",
        "question": "What is 17 + 25?",
        "text": "Ada is 36 years old.",
        "token_ids": template.render([UserMessage("Hello!")]).token_ids,
        "tools": [get_weather],
    }


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sun in {city}."


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda page: page.stem)
async def test_the_snippets_of_a_page_run(
    page: Path, template: PromptTemplate, opened: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name in REAL and not LONG:
        pytest.skip("with LLAMA4_LONG=1: needs a real model")
    text = TEXTS[page].replace('"/models/scout"', repr(str(NANO)))
    monkeypatch.setattr(llama4sdk.server, "serve", checked_serve, raising=False)
    async with AsyncExitStack() as stack:
        names = await names_of_a_page(stack, template)
        if ADDRESS.search(text):
            served = await stack.enter_async_context(Llama4("local"))
            app = create_app(served, model_names=list(dict.fromkeys(MODEL.findall(text))))
            server = await stack.enter_async_context(running(app, shutdown_seconds=1))
            text = ADDRESS.sub(f"{server.url}/v1", text)
        if "session" in text and page.name in REAL:
            names["session"] = await stack.enter_async_context(await names["llama"].session("Hello!"))
        introduced = {name: names[name] for name in ("llama", "session") if name in names}
        for line, code in snippets_of(text):
            await run_snippet(code, names, page=str(page), line=line)
            names |= {name: value for name, value in introduced.items() if f" as {name}:" in code}  # its block is left
    assert opened


async def test_the_web_application_of_its_page_answers(
    template: PromptTemplate, opened: list[str], folder: Path
) -> None:
    page = next(page for page in WITH_SNIPPETS if page.name == "web-apps.md")
    names: dict[str, Any] = {"__name__": "snippet"}
    for line, code in snippets_of(TEXTS[page]):
        await run_snippet(code, names, page=str(page), line=line)
    app = names["app"]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as client,
    ):
        asked = await client.post("/ask", json={"text": "What is the capital of France?"})
        added = await client.post("/sum", json={"text": "What is 17 + 25?"})
        refused = await client.post("/sum", json={"text": "word " * 200_000})
    assert asked.text == "The capital of France is Paris."
    assert isinstance(added.json()["result"], int)
    assert refused.status_code == 400
    assert "context" in refused.json()["error"]
