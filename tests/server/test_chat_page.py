"""The chat page in a headless Chromium, over a real server."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from playwright.async_api import Page, Request, async_playwright, expect

from guards.guard_doubles import BrokenGuard, WordGuard
from llama4sdk import Llama4, ServerFault, TextDelta
from llama4sdk.backend import Backend
from llama4sdk.guards import Guard
from llama4sdk.server import create_app, running
from llama4sdk.testing import ScriptedBackend
from server_running import red_circle

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser_needed = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium; on Debian: apt-get install --no-install-recommends chromium"
)
PHONE = (390, 844)
DESKTOP = (1100, 760)
PATIENCE = 60_000  # milliseconds
CIRCLE = base64.b64decode(red_circle().partition(",")[2])

# A file as the browser hands it over when it is dropped or pasted.
_GIVE = """([kind, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], 'circle.png', { type: 'image/png' }));
  const event = kind === 'paste'
    ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@asynccontextmanager
async def page_of(
    backend: Backend | str = "local",
    size: tuple[int, int] = DESKTOP,
    key: str = "",
    guards: Sequence[Guard] | None = None,
) -> AsyncGenerator[Page]:
    """Open the page of a server; whatever it asks another host for, or complains of, is an error."""
    complaints: list[str] = []
    async with (
        Llama4(backend, guards=guards) as llama,
        running(create_app(llama, chat_page=True, api_keys=key or ()), shutdown_seconds=1) as server,
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        own = urlsplit(server.url).netloc

        def check(asked: Request) -> None:
            if urlsplit(asked.url).netloc not in (own, ""):
                complaints.append(asked.url)

        page.on("request", check)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(server.url)
        yield page
        await browser.close()
    assert not complaints


async def send(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


@browser_needed
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
async def test_it_chats_with_tokens_and_timing_and_fits_the_screen(size: tuple[int, int]) -> None:
    async with page_of(size=size) as page:
        await expect(page.locator("#model")).to_have_text("nano")
        await send(page, "What is 17 + 25?")
        await expect(page.locator("article.assistant .text")).to_have_text("17 + 25 = 42.")
        await expect(page.locator(".meta")).to_have_text(
            re.compile(r"\d+ tokens, \d+ in the prompt · \d+\.\d\d s to the first · \d+ tokens/s")
        )
        await page.get_by_text("Settings").click()
        await page.get_by_label("Most tokens").fill("8")
        await send(page, "Thanks! " + "word" * 200)
        await expect(page.locator(".meta").last).to_have_text(re.compile("cut off at the most tokens|8 tokens"))
        assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
        await expect(page.locator("#send")).to_be_visible()  # once the answer is over
        box = await page.locator("#send").bounding_box()
        assert box is not None
        assert box["height"] >= 40  # a finger's width
        assert box["y"] + box["height"] <= size[1]


@browser_needed
@pytest.mark.parametrize("kind", ["drop", "paste"])
async def test_images_are_dropped_and_pasted(kind: str) -> None:
    async with page_of() as page:
        await page.evaluate(_GIVE, [kind, base64.b64encode(CIRCLE).decode()])
        await expect(page.locator("#attached img")).to_have_count(1)
        await send(page, "What is in this picture?")
        await expect(page.locator("article.assistant .text")).to_have_text(re.compile("red circle"))
        await expect(page.locator(".meta")).to_have_text(re.compile(r"\d+ of them for images"))
        await expect(page.locator("article.user img")).to_have_count(1)


@browser_needed
async def test_attached_images_can_be_removed_and_other_files_are_refused_in_words() -> None:
    async with page_of(ScriptedBackend("Hi")) as page:
        files = page.locator("#files")
        await files.set_input_files({"name": "circle.png", "mimeType": "image/png", "buffer": CIRCLE})
        await page.get_by_role("button", name="Remove circle.png").click()
        await expect(page.locator("#attached img")).to_have_count(0)
        for name, kind in (("broken.png", "image/png"), ("<b>notes.txt", "text/plain"), ("folder", "")):
            await files.set_input_files({"name": name, "mimeType": kind, "buffer": b"no image"})
            await expect(page.locator("#attached li").last).to_have_text(f"{name} cannot be read as an image.")
        await send(page, "שלום")
        await expect(page.locator("article.user .text")).to_have_css("unicode-bidi", "plaintext")


@browser_needed
async def test_stop_ends_the_answer_and_frees_the_backend_and_the_chat_goes_on() -> None:
    script = ScriptedBackend(["word " * 20_000], "And now a short one.", pause=0.02)
    async with page_of(script) as page:
        await send(page, "Go on for ever.")
        await expect(page.locator("article.assistant .text")).to_have_text(re.compile("word word"))
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator(".meta")).to_have_text(re.compile("stopped"))
        with anyio.fail_after(60):
            while script.running:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await send(page, "Shorter.")
        await expect(page.locator("article.assistant .text").last).to_have_text("And now a short one.")
    roles = [message.role for message in script.requests[1].messages]
    assert roles == ["user", "assistant", "user"]
    assert script.requests[1].messages[1].text.startswith("word word")


@browser_needed
async def test_everything_is_done_by_keyboard() -> None:
    script = ScriptedBackend(["word " * 20_000], pause=0.02)
    async with page_of(script) as page:
        await expect(page.locator("#prompt")).to_be_focused()
        await page.keyboard.type("Two")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("lines")
        await page.keyboard.press("Enter")
        await expect(page.locator("article.assistant .text")).to_have_text(re.compile("word"))
        await page.keyboard.press("Escape")
        await expect(page.locator(".meta")).to_have_text(re.compile("stopped"))
        await expect(page.locator("#prompt")).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await expect(page.locator("#attach")).to_be_focused()
        await page.locator("#new-chat").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("article")).to_have_count(0)
    assert script.requests[0].messages[0].text == "Two\nlines"


@browser_needed
async def test_errors_are_shown_by_kind_and_can_be_tried_again() -> None:
    broken = ServerFault("The model broke down.")
    script = ScriptedBackend([broken], [TextDelta("Hel"), broken], "Whole.")
    async with page_of(script) as page:
        await send(page, "Hi")
        box = page.get_by_role("alert")
        await expect(box).to_contain_text("The answer failed")
        await expect(box).to_contain_text("The model broke down.")
        await expect(box).to_contain_text("server_error · backend_failed · status 500")
        await page.get_by_role("button", name="Try again").click()
        await expect(page.locator("article.assistant .text")).to_have_text("Hel")
        await expect(box).to_contain_text("backend_failed")
        await page.get_by_role("button", name="Try again").click()
        await expect(page.locator("article.assistant .text")).to_have_text("Whole.")
        await expect(box).to_have_count(0)
    assert [len(request.messages) for request in script.requests] == [1, 1, 1]


@browser_needed
async def test_a_blocked_turn_is_an_error_and_no_part_of_the_conversation() -> None:
    script = ScriptedBackend("Fine so far. And now a BOMB.", "Whole.", "Again.")
    broken = BrokenGuard("raises", stages=("tool_result",))
    async with page_of(script, guards=[WordGuard(), broken]) as page:
        await send(page, "Hi")
        box = page.get_by_role("alert")
        await expect(box).to_contain_text("A guard blocked this turn")
        await expect(box).to_contain_text("content_filter · guard_blocked")
        assert "BOMB" not in await page.locator("#log").inner_text()
        await send(page, "Hello")
        await expect(page.locator("article.assistant .text").last).to_have_text("Whole.")
        broken.stages = ("input",)
        await send(page, "And then?")
        await expect(box.last).to_contain_text("A guard gave no verdict")
    assert [message.text for message in script.requests[1].messages] == ["Hello"]


@browser_needed
async def test_a_key_is_asked_for_and_kept_for_this_page_only() -> None:
    async with page_of(ScriptedBackend("Welcome."), key="secret") as page:
        await expect(page.locator("#key")).to_be_focused()
        await page.locator("#key").fill("secret")
        await page.keyboard.press("Tab")
        await expect(page.locator("#model")).to_have_text("script")
        await send(page, "Hi")
        await expect(page.locator("article.assistant .text")).to_have_text("Welcome.")
        stored = "JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie])"
        assert "secret" not in await page.evaluate(stored)


@browser_needed
async def test_text_of_the_model_is_never_markup() -> None:
    script = ScriptedBackend(["<img src=x onerror=\"document.title='taken'\"> ```js\n1 < 2\n```"])
    async with page_of(script) as page:
        await send(page, "<b>Hi</b>")
        await expect(page.locator(".meta")).to_have_count(1)
        assert await page.locator("article img, article b").count() == 0
        assert await page.title() == "llama4sdk chat"


async def test_the_page_forbids_other_hosts_and_is_off_by_default() -> None:
    with_page = create_app(Llama4(ScriptedBackend("Hi")), chat_page=True)
    async with running(with_page) as server, httpx.AsyncClient(trust_env=False) as client:
        page = await client.get(server.url)
        outside = await client.get(server.url + "/chat/../app.py")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    assert outside.status_code == 404
    async with (
        running(create_app(Llama4(ScriptedBackend("Hi")))) as server,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        assert (await client.get(server.url)).status_code == 404
