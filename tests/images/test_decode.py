"""Every mode and format becomes RGB by one rule."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_files import animated, chunk, encoded, png, turned
from llama4sdk.errors import ImageError
from llama4sdk.images import load
from llama4sdk.images.decode import decode
from synthetic_images import draw

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
HALVES = Image.fromarray(np.repeat(np.array([[RED, (0, 0, 255)]], np.uint8), 8, axis=1).repeat(8, axis=0))


def at(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_formats_without_loss_give_the_pixels_back(kind: str) -> None:
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    image = HALVES if kind == "GIF" else draw(60, 40, 1)
    assert decode(encoded(image, kind, **options)).tobytes() == image.tobytes()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_a_jpeg_is_what_pillow_makes_of_it(options: dict[str, object]) -> None:
    data = encoded(draw(61, 43, 2), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as expected:
        assert decode(data).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (33, 17)])
def test_interlaced_png_files_are_read(size: tuple[int, int]) -> None:
    # Every pass of an all-white grey image is rows of a filter byte and 255s.
    width, height = size
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b""
    for x, y, step_x, step_y in passes:
        across, down = len(range(x, width, step_x)), len(range(y, height, step_y))
        rows += (b"\0" + b"\xff" * across) * down if across else b""
    image = decode(png(width, height, rows, colour=0, interlace=1))
    assert image.getextrema() == ((255, 255),) * 3
    with pytest.raises(ImageError, match="cut off"):
        decode(png(width, height, rows[:-1], colour=0, interlace=1))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_every_depth_of_grey_is_read(depth: int) -> None:
    row = b"\0" + b"\xff" * (-(-5 * depth // 8))
    assert decode(png(5, 3, row * 3, depth=depth, colour=0)).getextrema() == ((255, 255),) * 3


def test_fault_26_what_is_no_image_is_an_image_error_without_details() -> None:
    html = b"<html><body>404 Not Found</body></html>"
    zero = [png(0, 5, b""), png(5, 0, b""), b"GIF89a" + bytes(7) + b";"]
    for data in (b"", b"\0", html, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", *zero):
        with pytest.raises(ImageError) as caught:
            decode(data)
        message = str(caught.value)
        assert "0x" not in message
        assert "BytesIO" not in message
        assert "identify" not in message
        assert "404" not in message
        assert caught.value.__cause__ is None


def test_fault_27_cmyk_becomes_rgb_as_the_reference_converts_it() -> None:
    cmyk = draw(64, 48, 3).convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.mode == "CMYK"
        assert decode(data).tobytes() == stored.convert("RGB").tobytes()
    assert load(cmyk).tobytes() == cmyk.convert("RGB").tobytes()


def transparent(mode: str) -> Image.Image:
    """Left half clear, right half solid; red, or black where there is no colour."""
    alpha = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 4, axis=1).repeat(8, axis=0))
    if mode == "P":
        image = Image.fromarray((np.asarray(alpha) // 255).astype(np.uint8)).convert("P")
        image.putpalette([0, 255, 0, *RED] + [0] * 762)
        image.info["transparency"] = 0
        return image
    image = Image.new("RGB" if mode == "RGBA" else "L", alpha.size, RED if mode == "RGBA" else 0).convert(mode)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(
    ("mode", "kind", "solid"),
    [
        ("RGBA", "PNG", RED),
        ("RGBA", "WEBP", RED),
        ("LA", "PNG", BLACK),
        ("P", "PNG", RED),
        ("P", "GIF", RED),
    ],
)
def test_fault_28_transparency_lies_over_white(mode: str, kind: str, solid: tuple[int, ...]) -> None:
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    image = transparent(mode)
    for found in (decode(encoded(image, kind, **options)), load(image)):
        assert at(found, 1, 1) == WHITE
        assert at(found, 6, 1) == solid


def test_fault_28_half_transparent_colour_is_mixed_with_white() -> None:
    assert at(load(Image.new("RGBA", (2, 2), (255, 0, 0, 128))), 0, 0) == (255, 127, 127)


def test_fault_28_a_colour_named_transparent_lies_over_white() -> None:
    row = b"\0" + bytes(RED) + bytes(BLACK)
    data = png(2, 1, row, extra=chunk(b"tRNS", b"\0\xff\0\0\0\0"))
    image = decode(data)
    assert (at(image, 0, 0), at(image, 1, 0)) == (WHITE, BLACK)
    grey = png(2, 1, b"\0\x12\x34\xff\xff", depth=16, colour=0, extra=chunk(b"tRNS", b"\x12\x34"))
    assert at(decode(grey), 0, 0) == WHITE


def test_fault_29_grey_of_16_bits_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], np.uint16)
    expected = [0, 0, 1, 0x12, 0x80, 0xFF]
    image = Image.fromarray(levels)
    for found in (decode(encoded(image)), load(image), load(image.convert("I"))):
        assert [at(found, x, 0)[0] for x in range(6)] == expected
    colour = png(1, 1, b"\0\x12\x34\x80\x00\xff\xff", depth=16)
    assert at(decode(colour), 0, 0) == (0x12, 0x80, 0xFF)


@pytest.mark.parametrize(
    "data",
    [animated("GIF"), animated("WEBP", lossless=True), animated("PNG"), animated("PNG", default_image=True)],
    ids=["GIF", "WEBP", "APNG", "APNG with a still image"],
)
def test_fault_30_an_animation_is_its_first_frame(data: bytes) -> None:
    image = decode(data)
    assert image.size == (20, 10)
    assert at(image, 5, 5) == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fault_31_orientation_is_applied_as_a_person_sees_the_photo(orientation: int, kind: str) -> None:
    data = turned(draw(24, 16, 4), orientation, kind)
    with Image.open(io.BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
        assert decode(data).tobytes() == upright.tobytes()
        assert decode(data).size == upright.size == ((24, 16) if orientation < 5 else (16, 24))
        assert decode(data, orient=False).tobytes() == stored.convert("RGB").tobytes()
        assert load(stored).tobytes() == upright.tobytes()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_fault_31_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    assert decode(turned(draw(24, 16, 4), orientation)).size == (24, 16)


def test_fault_31_damaged_exif_turns_nothing() -> None:
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        assert decode(encoded(draw(24, 16, 4), "JPEG", exif=exif)).size == (24, 16)


@pytest.mark.parametrize(
    "data",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"></svg>',
        b'<?xml version="1.0"?><svg/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"%PDF-1.7\n",
        b"8BPS\0\1" + bytes(20),
        b"SIMPLE  =                    T",
        encoded(HALVES, "TIFF"),
        encoded(HALVES, "BMP"),
        encoded(HALVES, "ICO"),
        encoded(HALVES, "PPM"),
        encoded(HALVES, "JPEG2000"),
        b"\0\0\0\x1cftypavif" + bytes(20),
    ],
)
def test_fault_32_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="PNG, JPEG, WEBP and GIF"):
        decode(data)


def test_what_the_caller_set_in_pillow_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(draw(60, 40, 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(data).size == (60, 40)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = (
        "import sys, llama4sdk.images;"
        "print([m for m in ('PIL', 'numpy', 'httpx', 'torch', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
