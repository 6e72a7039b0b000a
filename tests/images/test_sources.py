"""Where images come from, and where they must not come from."""

from __future__ import annotations

import base64
import io
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from image_files import encoded, turned
from llama4sdk.errors import ImageError, InvalidRequest, TooManyImages, UrlBlocked
from llama4sdk.images import ImageLimits, Source, load, load_async, source
from llama4sdk.images import data_url as data_url_module
from llama4sdk.parts import Image as MessagePart

RED = Image.new("RGB", (6, 4), (255, 0, 0))
DATA = encoded(RED)


def data_url(data: bytes = DATA, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def pixels(image: Image.Image) -> tuple[tuple[int, int], bytes]:
    assert image.mode == "RGB"
    return image.size, image.tobytes()


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "bytearray", "memoryview", "image", "data URL"])
async def test_an_image_is_read_from_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(DATA)
    sources: dict[str, Source] = {
        "path": path,
        "str": str(path),
        "bytes": DATA,
        "bytearray": bytearray(DATA),
        "memoryview": memoryview(DATA),
        "image": RED,
        "data URL": data_url(),
    }
    assert pixels(load(sources[kind])) == pixels(RED)
    assert pixels(await load_async(sources[kind])) == pixels(RED)


@dataclass(frozen=True)
class Part:
    source: Source
    fetch: bool = False
    orient: bool = True


def test_a_message_part_says_itself_how_it_is_read() -> None:
    data = turned(Image.new("RGB", (6, 4)), 6)
    assert load(Part(data)).size == (4, 6)
    assert load(Part(data, orient=False), orient=True).size == (6, 4)
    with pytest.raises(UrlBlocked):
        load(Part("https://example.com/a.png"), fetch=True)


async def test_images_are_decoded_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    read = source.decode

    def noting(data: bytes, *, limits: ImageLimits, orient: bool) -> Image.Image:
        threads.append(threading.get_ident())
        return read(data, limits=limits, orient=orient)

    monkeypatch.setattr(source, "decode", noting)
    await load_async(DATA)
    assert threads
    assert threads[0] != threading.get_ident()


def test_an_image_that_was_handed_in_stays_as_it_is() -> None:
    image = Image.new("P", (5, 5), 3)
    load(image)
    assert image.mode == "P"
    assert image.size == (5, 5)


def test_a_lazily_opened_image_that_turns_out_damaged_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(Image.effect_noise((200, 200), 50), "JPEG")[:2000])
    with Image.open(path) as image, pytest.raises(ImageError, match="mode L could not be read"):
        load(image)


def test_a_handed_in_image_obeys_the_pixel_limit() -> None:
    with pytest.raises(ImageError, match="6×4 pixels, more than the 10 allowed"):
        load(RED, limits=ImageLimits(max_pixels=10))
    with pytest.raises(ImageError, match="no pixels"):
        load(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("name", ["nothing.png", "", "a\0b.png", "x" * 5000, "photo:1.png"])
def test_a_path_that_leads_nowhere_is_an_image_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError):
        load(name)


def test_an_image_mistaken_for_a_path_is_not_repeated_in_the_error() -> None:
    text = base64.b64encode(DATA * 10).decode()
    with pytest.raises(ImageError) as caught:
        load(text)
    assert text[:40] not in str(caught.value)
    assert "it is base64: decode it" in str(caught.value)


class FoundAt:
    """A path object of another library."""

    def __init__(self, found: object) -> None:
        self.found = found

    def __fspath__(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_paths_in_bytes_and_in_the_home_folder_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "red.png").write_bytes(DATA)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/red.png").size == RED.size
    assert load(FoundAt(os.fsencode(tmp_path / "red.png"))).size == RED.size


@pytest.mark.parametrize("found", [5, None, RuntimeError("broken")])
def test_an_object_without_a_path_is_an_image_error(found: object) -> None:
    with pytest.raises(ImageError, match="FoundAt gives no path"):
        load(FoundAt(found))


@pytest.mark.parametrize(
    ("thing", "hint"),
    [(np.zeros((2, 2, 3), np.uint8), r"PIL\.Image\.fromarray"), (io.BytesIO(DATA), r"file\.read\(\)")],
)
def test_arrays_and_open_files_are_refused_with_the_way(thing: object, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=hint):
        MessagePart(thing)


def test_a_name_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo:1.png").write_bytes(DATA)
    assert load("photo:1.png").size == RED.size


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)  # opening it would wait for a writer for ever
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(ImageError, match="is not a file"):
            load(path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(10**12)  # a sparse file

    def unread(*args: object, **options: object) -> NoReturn:
        raise AssertionError("the file was opened")

    monkeypatch.setattr(Path, "open", unread)
    with pytest.raises(ImageError, match="1,000,000,000,000 bytes, more than"):
        load(path)


@pytest.mark.parametrize("value", [None, 5, 1.5, ["a.png"], SimpleNamespace(read=lambda: DATA)])
def test_other_objects_are_refused_by_their_type(value: object) -> None:
    with pytest.raises(ImageError, match=f"cannot be read from {type(value).__name__}"):
        load(value)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "png"), ("JPEG", "jpeg"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif")]
)
def test_data_urls_of_all_four_formats_are_read(kind: str, name: str) -> None:
    assert load(data_url(encoded(RED, kind), f"image/{name}")).size == RED.size
    assert load(data_url(encoded(RED, kind), f"IMAGE/{name}").replace("data:", "DATA:", 1)).size == RED.size


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (data_url() + "=", "base64 is not valid"),
        (data_url().replace("base64,", "base64,!"), "base64 is not valid"),
        (data_url().replace("base64,", "base64,é"), "base64 is not valid"),
        (data_url() + "====", "base64 is not valid"),
        (data_url() + "AA==AA==", "base64 is not valid"),
        ("data:image/png;base64,A===", "base64 is not valid"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,AAAA", "not an image"),
        (data_url().replace("base64,", "base64,-_"), "base64 is not valid"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "not an image"),
        ("data:image/png;base64,%41%", "base64 is not valid"),
        ("data:image/png;base65,AAAA", "not an image"),
        ("data:image/png,%89PNG", "not an image"),
        ("data:,", "empty"),
        ("data:", "no comma"),
        ("data:image/png;base64", "no comma"),
    ],
)
def test_fault_34_data_urls_that_no_browser_reads_are_refused(url: str, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        load(url)


def test_fault_34_padding_before_the_end_is_refused_in_long_data_too(monkeypatch: pytest.MonkeyPatch) -> None:
    url = data_url()
    assert len(url) > 90
    monkeypatch.setattr(data_url_module, "_STEP", 8)
    assert load(url).size == RED.size
    start = url.index(",") + 1
    for place in (start + 7, start + 15):
        with pytest.raises(ImageError, match="base64 is not valid"):
            load(url[:place] + "=" + url[place + 1 :])


def test_fault_34_a_large_data_url_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def undecoded(*args: object, **options: object) -> NoReturn:
        raise AssertionError("the base64 was decoded")

    monkeypatch.setattr(data_url_module.binascii, "a2b_base64", undecoded)
    with pytest.raises(ImageError, match="bytes, more than"):
        load("data:image/png;base64," + "A" * 100_000_000)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> NoReturn:
        raise AssertionError("the network was asked")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "https://example.com/a.png",
        "HTTPS://EXAMPLE.COM",
        " https://example.com",
        "http:\\\\a",
    ],
)
async def test_fault_35_a_web_address_is_not_fetched_by_default(url: str) -> None:
    with pytest.raises(UrlBlocked, match="fetch=True"):
        load(url)
    with pytest.raises(UrlBlocked, match="fetch=True"):
        await load_async(url)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("url", ["file:///etc/passwd", "FILE:/etc/passwd", "ftp://example.com/a.png", "gopher://a"])
async def test_other_urls_are_never_read(url: str) -> None:
    for fetch in (False, True):
        with pytest.raises(UrlBlocked):
            load(url, fetch=fetch)
        with pytest.raises(UrlBlocked):
            await load_async(url, fetch=fetch)


@pytest.mark.usefixtures("no_network")
def test_a_function_that_does_not_wait_fetches_nothing() -> None:
    with pytest.raises(InvalidRequest, match="await load_async"):
        load("https://example.com/a.png", fetch=True)


def test_limits_refuse_nonsense_where_they_are_made() -> None:
    for name in ("max_pixels", "max_bytes", "max_images"):
        for bound in (0, -1, 1.5, None, True):
            with pytest.raises(InvalidRequest, match=name):
                ImageLimits(**{name: bound})  # pyright: ignore[reportArgumentType]


def test_more_images_than_allowed_are_too_many() -> None:
    limits = ImageLimits(max_images=2)
    limits.check_count(2)
    with pytest.raises(TooManyImages, match="3 images; at most 2"):
        limits.check_count(3)
