"""Images on their way to a server: as small as the model sees them, and no smaller."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from http_asking import ask
from llama4_http import HttpBackend
from llama4_http.images import fitting, pack
from llama4_http.profiles import PROFILES
from llama4_http.settings import Settings
from llama4sdk.errors import ImageError, UrlBlocked
from llama4sdk.events import Done
from llama4sdk.images import cut, fitted_size, grid_for, load
from llama4sdk.messages import Image, UserMessage
from llama4sdk.request import Request
from llama4sdk.testing.faults import FaultServer

SIDES = st.integers(1, 5000)


def photo(width: int, height: int) -> Pillow.Image:
    """An image with edges and gradients, so that resampling shows."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    levels = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x // 9 + y // 7) % 2 * 200], -1)
    return Pillow.fromarray(levels.astype(np.uint8))


def file_of(image: Pillow.Image, form: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)  # type: ignore[arg-type]
    return file.getvalue()


@given(SIDES, SIDES)
@settings(max_examples=100)
def test_the_size_sent_gets_the_same_grid_and_is_never_larger(width: int, height: int) -> None:
    sent = fitting(width, height)
    grid, again = grid_for(width, height), grid_for(*sent)
    assert (again.rows, again.cols, again.prompt_tokens) == (grid.rows, grid.cols, grid.prompt_tokens)
    assert sent[0] <= width
    assert sent[1] <= height
    if sent != (width, height):
        assert fitted_size(*sent, again.rows, again.cols) == sent


@pytest.mark.parametrize("size", [(2000, 1500), (1200, 2200), (3000, 600), (1400, 1400)])
def test_the_tiles_of_the_grid_are_equal_after_scaling(size: tuple[int, int]) -> None:
    image = photo(*size)
    packed = pack(Image(file_of(image)), Settings())
    sent = load(packed.data)
    assert sent.size == packed.size
    assert sent.size != size
    before, after = cut(image), cut(sent)
    if packed.mime == "image/png":
        assert np.array_equal(before.levels[:-1], after.levels[:-1])
    difference = np.abs(before.levels[-1].astype(int) - after.levels[-1].astype(int))
    assert difference.mean() < 1.5  # of 255: the global tile alone is made from the scaled image
    assert packed.saved_bytes == max(0, packed.file_bytes - len(packed.data))


@pytest.mark.parametrize(("form", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg")])
def test_a_small_plain_image_travels_untouched(form: str, mime: str) -> None:
    data = file_of(photo(300, 200), form)
    packed = pack(Image(data), Settings())
    assert (packed.data, packed.mime, packed.saved_bytes) == (data, mime, 0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_what_readers_may_read_differently_is_sent_as_plain_rgb(mode: str) -> None:
    image = photo(60, 40).convert(mode)
    data = file_of(image, "JPEG" if mode == "CMYK" else "PNG")
    sent = Pillow.open(BytesIO(pack(Image(data), Settings()).data))
    assert sent.mode == "RGB"


def test_the_orientation_is_applied_before_sending() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    data = file_of(photo(60, 40), "JPEG", exif=exif)
    assert pack(Image(data), Settings()).size == (40, 60)
    assert pack(Image(data, orient=False), Settings()).size == (60, 40)
    assert Pillow.open(BytesIO(pack(Image(data, orient=False), Settings()).data)).getexif().get(0x0112, 1) == 1


def test_fitting_can_be_switched_off() -> None:
    data = file_of(photo(3000, 2000))
    assert pack(Image(data), Settings(fit_images=False)).data == data


def test_an_inline_limit_is_met_by_quality() -> None:
    noise = Pillow.effect_noise((900, 700), 80).convert("RGB")
    packed = pack(Image(file_of(noise)), Settings(), max_inline=600_000)
    assert packed.mime == "image/jpeg"
    assert packed.url_bytes <= 600_000
    assert len(base64.b64decode(packed.url.partition(",")[2])) == len(packed.data)


def test_what_cannot_be_read_is_an_image_error() -> None:
    with pytest.raises(ImageError):
        pack(Image(b"<html>"), Settings())
    with pytest.raises(UrlBlocked):
        pack(Image("http://example.org/cat.png"), Settings())


async def test_images_arrive_as_data_urls_and_addresses_as_they_are() -> None:
    data = file_of(photo(30, 20))
    message = UserMessage([Image(data), Image("https://example.org/cat.png"), "What?"])
    async with FaultServer() as server:
        backend = HttpBackend(server.url)
        reply = (await ask(backend, Request((message,)))).reply
        first, second, text = server.received[-1].json["messages"][0]["content"]
        assert base64.b64decode(first["image_url"]["url"].partition(",")[2]) == data
        assert second["image_url"]["url"] == "https://example.org/cat.png"
        assert text == {"type": "text", "text": "What?"}
        assert reply.usage.image_tokens == 147
        await backend.aclose()


async def test_what_scaling_saved_is_reported() -> None:
    data = file_of(Pillow.effect_noise((1500, 1500), 90).convert("RGB"))
    async with FaultServer() as server:
        backend = HttpBackend(server.url, model="faults", profile="vllm")
        done = (await ask(backend, Request((UserMessage([Image(data), "What?"]),)))).events[-1]
        assert isinstance(done, Done)
        sent = server.received[-1].json["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]
        assert done.details["image_bytes_saved"] == len(data) - len(base64.b64decode(sent)) > 0
        await backend.aclose()


async def test_an_image_that_is_too_large_to_be_inline_is_uploaded_without_the_key() -> None:
    noise = file_of(Pillow.effect_noise((800, 600), 90).convert("RGB"))
    async with FaultServer() as server:
        assets = server.url.replace("/v1", "/assets")
        catalog = replace(PROFILES["nvidia-catalog"], max_inline=20_000, assets_url=assets)
        backend = HttpBackend(server.url, model="faults", profile=catalog, api_key="nvapi-key")
        outcome = await ask(backend, Request((UserMessage([Image(noise), "What?"]),)))
        assert outcome.error is None
        asked, put, chat = server.received
        assert asked.json == {"contentType": "image/jpeg", "description": "image"}
        assert (put.method, put.headers.get("authorization"), put.body[:3]) == ("PUT", None, b"\xff\xd8\xff")
        assert put.headers["x-amz-meta-nvcf-asset-description"] == "image"
        assert chat.json["messages"][0]["content"][0]["image_url"]["url"] == "data:image/jpeg;asset_id,asset-1"
        assert chat.headers["nvcf-input-asset-references"] == "asset-1"
        await backend.aclose()


async def test_an_answer_that_takes_long_is_asked_for_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama4_http.exchange._POLL", 0.01)
    async with FaultServer() as server:
        catalog = replace(PROFILES["nvidia-catalog"], status_url=server.url.replace("/v1", "/status"))
        backend = HttpBackend(server.url_for("accepted"), model="faults", profile=catalog)
        outcome = await ask(backend)
        assert outcome.reply.text == "Héllo 👋, you said: Hello!"
        assert [request.method for request in server.received] == ["POST", "GET", "GET"]
        await backend.aclose()


def odd(kind: str) -> bytes:
    """An image's file of a kind that two readers may read differently."""
    image = photo(60, 40)
    match kind:
        case "one pixel":
            return file_of(photo(1, 1))
        case "tall line" | "wide line":
            return file_of(photo(1, 20_000) if kind == "tall line" else photo(20_000, 1))
        case "cmyk":
            return file_of(image.convert("CMYK"), "JPEG")
        case "palette":
            return file_of(image.convert("P"), "PNG", transparency=3)
        case "grey and alpha":
            grey = image.convert("LA")
            grey.putalpha(Pillow.linear_gradient("L").resize((60, 40)))
            return file_of(grey)
        case "deep grey":
            return file_of(Pillow.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27))
        case "animated":
            frames = [image.convert("P"), Pillow.new("P", (60, 40))]
            return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
        case _:
            exif = Pillow.Exif()
            exif[0x0112] = int(kind)
            return file_of(image, "JPEG", exif=exif, quality=95)


KINDS = ["one pixel", "tall line", "wide line", "cmyk", "palette", "grey and alpha", "deep grey", "animated"]


@pytest.mark.parametrize("kind", [*KINDS, *map(str, range(1, 9))])
def test_fault_24_25_27_28_29_30_31_odd_images_have_the_same_tiles_behind_a_server(kind: str) -> None:
    here = cut(load(odd(kind)))
    packed = pack(Image(odd(kind)), Settings())
    there = cut(load(packed.data, orient=False))  # a server may know nothing of orientation
    assert there.grid == here.grid
    assert packed.prompt_tokens == here.grid.prompt_tokens
    exact = slice(None, -1) if "line" in kind else slice(None)  # a scaled image's global tile differs a little
    if packed.mime == "image/png":
        assert np.array_equal(here.levels[exact], there.levels[exact])
    assert np.abs(here.levels.astype(int) - there.levels.astype(int)).mean() < 1.5
