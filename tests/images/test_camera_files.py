"""Files as cameras, phones and scanners leave them: damaged spots, odd metadata, deep levels, other formats."""

from __future__ import annotations

import base64
import io
import random
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from image_files import ORIENTATION, chunk, encoded, png, turned
from llama4sdk.errors import ImageError
from llama4sdk.image_limits import ImageLimits
from llama4sdk.images import decode as decode_module
from llama4sdk.images import load
from llama4sdk.images.decode import decode
from llama4sdk.parts import Image as ImagePart
from llama4sdk.parts import part_of
from synthetic_images import draw

PHOTO = draw(320, 240, 5)
EXIF = Image.Exif()
EXIF[ORIENTATION] = 6


def by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def damaged_spots(data: bytes, count: int = 40) -> list[bytes]:
    """Return copies with one spot of the compressed data overwritten, markers among the new bytes."""
    rng, scan = random.Random(7), data.index(b"\xff\xda")
    spots = [b"\xff\xe5", b"\xff\xd3", b"\xff\x01", b"\xff\xc0", b"\xff\xff\xff", b"\xff\xfe", b"\0\0\0\0", b"\xff\xdb"]
    copies: list[bytes] = []
    for turn in range(count):
        place = rng.randrange(scan + 30, len(data) - 40)
        spot = spots[turn % len(spots)]
        copies.append(data[:place] + spot + data[place + len(spot) :])
    return copies


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 4}], ids=str)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_a_damaged_spot_is_mended_as_its_decoder_mends_it(
    options: dict[str, int], progressive: bool
) -> None:
    data = encoded(PHOTO, "JPEG", quality=90, progressive=progressive, exif=EXIF, **options)
    read = 0
    for copy in damaged_spots(data):
        try:
            expected = by_pillow(copy)
        except OSError:
            with pytest.raises(ImageError):
                decode(copy)
        else:
            assert decode(copy).tobytes() == expected.tobytes()
            read += 1
    assert read > 10


def test_behind_a_damaged_spot_a_jpeg_with_restart_markers_goes_on() -> None:
    data = encoded(PHOTO, "JPEG", quality=90, restart_marker_rows=1)
    place = data.index(b"\xff\xd2", data.index(b"\xff\xda")) + 40
    image = np.asarray(decode(data[:place] + bytes(40) + data[place + 40 :]))
    wrong = (image != np.asarray(decode(data))).any(axis=(1, 2))
    assert 1 <= wrong.sum() <= 32  # rows


def test_metadata_of_a_jpeg_that_is_damaged_harms_nothing() -> None:
    data = encoded(PHOTO, "JPEG")
    parts = [
        b"\xff\xe2\0\x0eICC_PROFILE\0",  # too short for its own number
        b"\xff\xed\0\x14Photoshop 3.0\0\xff\xff\xff\xff",
        b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff",
        b"\xff\xe0\0\x04ab",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for part in parts:
            assert decode(data[:2] + part + data[2:]).tobytes() == decode(data).tobytes()


@pytest.mark.parametrize(
    "kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"pHYs", b"tIME", b"acTL", b"prIv"]
)
def test_damage_in_a_png_chunk_that_is_left_out_harms_nothing(kind: bytes) -> None:
    sound = chunk(kind, b"note\0\0" + bytes(20))
    wrong = sound[:-4] + b"\0\0\0\0"
    rows = (b"\0" + bytes((1, 2, 3)) * 4) * 3
    expected = decode(png(4, 3, rows)).tobytes()
    assert decode(png(4, 3, rows, extra=wrong)).tobytes() == expected
    whole = png(4, 3, rows)
    assert decode(whole[:-12] + wrong + whole[-12:]).tobytes() == expected


@pytest.mark.parametrize("kind", [b"IDAT", b"PLTE", b"tRNS", b"IHDR", b"IEND"])
def test_damage_in_a_png_chunk_that_bears_on_the_pixels_is_refused(kind: bytes) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    data = encoded(image, transparency=0)
    place = data.index(kind)
    end = place + 4 + int.from_bytes(data[place - 4 : place], "big")
    with pytest.raises(ImageError, match="damaged"):
        decode(data[:end] + bytes(byte ^ 0xFF for byte in data[end : end + 4]) + data[end + 4 :])


def exif_of(
    kind: int, value: bytes, *, opening: bytes = b"Exif\0\0", start: bytes = b"II*\0", values: int = 1
) -> bytes:
    order = "<" if start.startswith(b"I") else ">"
    entry = struct.pack(f"{order}HHI4s", ORIENTATION, kind, values, value)
    return opening + start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def with_exif(exif: bytes) -> bytes:
    data = encoded(draw(24, 16, 4), "JPEG", quality=95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(
    "exif",
    [
        *(exif_of(kind, struct.pack(f"<{form}", 6)) for kind, form in enumerate("BBHIQbBhi", start=1)),
        *(exif_of(kind, struct.pack(f">{form}", 6), start=b"MM\0*") for kind, form in ((3, "H"), (4, "I"), (9, "i"))),
        exif_of(9, struct.pack("<i", -6)),
        exif_of(3, struct.pack("<HH", 6, 1), values=2),
        exif_of(3, struct.pack("<I", 2), values=3),
        exif_of(4, struct.pack("<I", 2**31), values=3),
        exif_of(3, struct.pack("<H", 6), values=0),
        exif_of(3, struct.pack("<H", 6), start=b"II\0*"),
        exif_of(3, struct.pack(">H", 6), start=b"MM*\0"),
        exif_of(3, struct.pack("<H", 6), start=b"II+\0"),
        exif_of(3, struct.pack("<H", 6), opening=b"Exif\0\0" * 2),
    ],
    ids=bytes.hex,
)
def test_orientation_counts_in_whatever_integer_a_camera_writes_it(exif: bytes) -> None:
    data = with_exif(exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = by_pillow(data)
    assert decode(data).tobytes() == expected.tobytes()
    assert decode(data).size == expected.size


@pytest.mark.parametrize("name", ["Raw profile type exif", "Raw profile type APP1"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("international", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_in_a_raw_profile_is_applied(
    name: str, packed: bool, international: bool, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    body = exif.tobytes()
    digits = "\n".join(body.hex()[place : place + 72] for place in range(0, 2 * len(body), 72))
    info = PngImagePlugin.PngInfo()
    add = info.add_itxt if international else info.add_text
    add(name, f"\nexif\n{len(body):8}\n{digits}\n", zip=packed)
    data = encoded(PHOTO, pnginfo=info)
    upright = decode(turned(PHOTO, orientation, "PNG"))
    assert decode(data).tobytes() == upright.tobytes()
    assert decode(data, orient=False).size == PHOTO.size
    with Image.open(io.BytesIO(data)) as image:
        assert load(image).tobytes() == upright.tobytes()


def test_a_raw_profile_of_nonsense_turns_nothing() -> None:
    for text in ("", "\nexif\n", "\nexif\n 4\nzz", "\nexif\n 3\nabc"):
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type exif", text)
        assert decode(encoded(PHOTO, pnginfo=info)).tobytes() == PHOTO.tobytes()


def greys(image: Image.Image) -> list[int]:
    return [level[0] for level in np.asarray(load(image)).reshape(-1, 3).tolist()]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.array([[0, 1, 128, 255]], np.int32), [0, 1, 128, 255]),
        (np.array([[-5, 0, 7, 255]], np.int32), [0, 0, 7, 255]),
        (np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.int32), [0, 0, 1, 0x80, 0xFF]),
        (np.array([[0, 2**23, 2**24]], np.int32), [0, 127, 255]),
        (np.array([[0, 2**31 - 1]], np.int32), [0, 255]),
        (np.array([[0, 255, 256, 0xFFFF]], np.uint16), [0, 0, 1, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 127, 255]),
        (np.array([[0, 127.5, 255]], np.float32), [0, 127, 255]),
        (np.array([[0, 256, 32768, 65535]], np.float32), [0, 1, 128, 255]),
        (np.array([[0, 5e5, 1e6]], np.float32), [0, 127, 255]),
        (np.array([[np.nan, -1, 0.5, np.inf]], np.float32), [0, 0, 127, 255]),
        (np.array([[0, 0]], np.float32), [0, 0]),
        (np.array([[0, 0]], np.int32), [0, 0]),
    ],
)
def test_levels_without_a_depth_are_scaled_by_their_size(levels: np.ndarray, expected: list[int]) -> None:
    assert greys(Image.fromarray(levels)) == expected


@pytest.mark.parametrize(
    "mode",
    "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I F I;16 I;16B I;16L".split(),
)
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    image = load(Image.new(mode, (3, 2)))
    assert (image.mode, image.size) == ("RGB", (3, 2))


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC: pip install pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC: pip install pillow-heif"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc", "HEIC: pip install pillow-heif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF: open it with Pillow"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video: take a frame"),
        (b"II*\0\x08\0\0\0", "TIFF: open it with Pillow"),
        (b"II+\0\x08\0\0\0", "TIFF: open it with Pillow"),
        (b"BM" + bytes(60), "BMP: open it with Pillow"),
        *(
            (encoded(PHOTO, kind), f"{kind}: open it with Pillow")
            for kind in ("ICO", "TGA", "PCX", "SGI", "DDS", "QOI")
        ),
        (encoded(PHOTO, "PPM"), "PNM: open it with Pillow"),
        (b"\xff\x0a\x12\x34", "JPEG XL: save it"),
        (b"%PDF-1.7\n", "PDF or PostScript: render its pages"),
        (b'<?xml version="1.0"?>\n<!-- made by hand --><svg>', "SVG: save it"),
        (b"\xef\xbb\xbf<svg/>", "SVG: save it"),
        (b"\n<!DOCTYPE html><html><svg>", "a page of HTML: look at the address"),
        (b'{"error": "gone"}', "JSON: look at the address"),
        (b"data:image/png;base64,iVBORw0KGgo", "a data: URL: pass it as a string"),
        (base64.b64encode(encoded(PHOTO)), "base64: decode it"),
    ],
)
def test_what_is_no_picture_in_the_four_formats_is_named_with_the_way_out(data: bytes, remedy: str) -> None:
    with pytest.raises(ImageError, match=f"it is {remedy}"):
        decode(data + bytes(100))


def test_a_webp_picture_beyond_pillows_own_limit_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"MAX_IMAGE_PIXELS = None"):
        decode(encoded(PHOTO, "WEBP"))


def test_limits_of_one_image_are_its_own() -> None:
    data = encoded(PHOTO)
    few = ImageLimits(max_pixels=100)
    with pytest.raises(ImageError, match=r"Image\(…, image_limits=ImageLimits\(max_pixels=…\)\)"):
        load(data, limits=few)
    for source in (data, PHOTO):
        assert load(ImagePart(source, image_limits=ImageLimits()), limits=few).size == PHOTO.size
        with pytest.raises(ImageError, match="more than the 100 allowed"):
            load(ImagePart(source, image_limits=few))
    part = part_of({"type": "image", "data": data, "image_limits": few})
    assert isinstance(part, ImagePart)
    assert part.image_limits == few


@pytest.mark.parametrize(("default", "scale"), [(320 * 240, 1), (320 * 240 - 1, 2), (160 * 120 - 1, 4), (100, 8)])
def test_a_jpeg_beyond_the_default_limit_is_decoded_at_a_fraction_of_its_size(
    default: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "DEFAULT_LIMITS", ImageLimits(max_pixels=default))
    data = turned(PHOTO, 6)
    image = decode(data, limits=ImageLimits())
    assert image.size == (240 // scale, 320 // scale)
    small = decode(data, limits=ImageLimits(), orient=True).resize((30, 40))
    full = by_pillow(data).resize((30, 40))
    assert np.abs(np.asarray(small, np.int16) - np.asarray(full, np.int16)).mean() < 12
