"""Images from the web on the local backend: fetched where the message allows it, refused elsewhere."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image as Pillow

from llama4sdk.errors import ImageError, LlamaError, TooManyImages, UrlBlocked
from llama4sdk.events import Done
from llama4sdk.image_limits import ImageLimits
from llama4sdk.images import fetch
from llama4sdk.messages import Image, UserMessage
from llama4sdk.request import Request
from local.small_backends import GREEDY, events_of, serving, text_of

URL = "https://images.example/red.png"


def data_of(colour: str = "red") -> bytes:
    file = BytesIO()
    Pillow.new("RGB", (90, 40), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses that were fetched, and the most bytes allowed; each is a red image."""
    asked: list[tuple[str, int]] = []

    async def fetch_image(url: str, *, max_bytes: int) -> bytes:
        asked.append((url, max_bytes))
        return data_of()

    monkeypatch.setattr(fetch, "fetch_image", fetch_image)
    return asked


def about(*images: Image) -> Request:
    return Request((UserMessage([*images, "hello"]),), sampling=GREEDY)


async def test_an_image_that_may_be_fetched_is_the_same_as_its_bytes(
    folder: Path, fetched: list[tuple[str, int]]
) -> None:
    async with serving(folder) as backend:
        by_bytes = await events_of(backend, about(Image(data_of())))
        by_url = await events_of(backend, about(Image(URL, fetch=True)))
    assert text_of(by_url) == text_of(by_bytes)
    assert isinstance(by_url[-1], Done)
    assert fetched == [(URL, ImageLimits().max_bytes)]


async def test_an_address_named_twice_is_fetched_once(folder: Path, fetched: list[tuple[str, int]]) -> None:
    async with serving(folder) as backend:
        await events_of(backend, about(Image(URL, fetch=True), Image(URL, fetch=True, orient=False)))
        assert len(fetched) == 1
        own = ImageLimits(max_bytes=1000)
        await events_of(backend, about(Image(URL, fetch=True, image_limits=own)))
        assert fetched[1] == (URL, 1000)


async def test_sessions_fetch_too(folder: Path, fetched: list[tuple[str, int]]) -> None:
    async with (
        serving(folder) as backend,
        await backend.session(about(Image(URL, fetch=True))) as session,
        session.open(about(Image(URL, fetch=True))) as events,
    ):
        async for _ in events:
            pass
    assert len(fetched) == 2


async def test_without_leave_or_beyond_the_most_images_nothing_is_fetched(
    folder: Path, fetched: list[tuple[str, int]]
) -> None:
    async with serving(folder, max_images=2) as backend:
        with pytest.raises(UrlBlocked, match="fetch=True"):
            await events_of(backend, about(Image(URL)))
        with pytest.raises(TooManyImages):
            await events_of(backend, about(*[Image(URL, fetch=True)] * 3))
    assert fetched == []


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "http://169.254.169.254/", "http://[::1]/a.png"])
async def test_addresses_of_this_machines_network_are_blocked(folder: Path, url: str) -> None:
    async with serving(folder) as backend:
        with pytest.raises(UrlBlocked):
            await events_of(backend, about(Image(url, fetch=True)))


async def test_a_failed_fetch_ends_that_request_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(url: str, *, max_bytes: int) -> bytes:
        raise ImageError("The server answers with something else.")

    monkeypatch.setattr(fetch, "fetch_image", failing)
    async with serving(folder) as backend:
        with pytest.raises(LlamaError, match="something else"):
            await events_of(backend, about(Image(URL, fetch=True)))
        assert isinstance((await events_of(backend, about(Image(data_of()))))[-1], Done)


async def test_limits_of_images_are_the_backends_and_the_images_own(folder: Path) -> None:
    async with serving(folder, image_limits=ImageLimits(max_pixels=1000, max_images=2)) as backend:
        with pytest.raises(ImageError, match="more than the 1,000 allowed"):
            await events_of(backend, about(Image(data_of())))
        image = Image(data_of(), image_limits=ImageLimits())
        assert isinstance((await events_of(backend, about(image)))[-1], Done)
        with pytest.raises(TooManyImages, match="takes 2"):
            await events_of(backend, about(image, image, image))
