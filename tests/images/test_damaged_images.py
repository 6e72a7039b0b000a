"""Images that lie, are cut off, or explode: one clear error, before memory or time are spent."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from functools import cache
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from image_files import PNG_SIGNATURE, animated, chunk, encoded, png
from llama4sdk.errors import ImageError
from llama4sdk.images import ImageLimits, jpeg
from llama4sdk.images import decode as decode_module
from llama4sdk.images.decode import decode, inspect
from synthetic_images import draw


@cache
def sound(kind: str) -> bytes:
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    return {
        "PNG": lambda: encoded(image),
        "JPEG": lambda: encoded(image, "JPEG"),
        "progressive JPEG": lambda: encoded(image, "JPEG", progressive=True),
        "WEBP": lambda: encoded(image, "WEBP"),
        "lossless WEBP": lambda: encoded(image, "WEBP", lossless=True),
        "animated WEBP": lambda: animated("WEBP"),
        "GIF": lambda: encoded(image.convert("P"), "GIF"),
        "APNG": lambda: animated("PNG"),
    }[kind]()


KINDS = ("PNG", "JPEG", "progressive JPEG", "WEBP", "lossless WEBP", "animated WEBP", "GIF", "APNG")


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a decoder gets to see the data."""

    def refuse(*args: object) -> NoReturn:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(decode_module, "_open", refuse)


def patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def huge(kind: str) -> bytes:
    side = 60_000
    if kind == "PNG":
        return png(side, side, b"\0")
    if kind == "GIF":
        return patched(sound("GIF"), 6, struct.pack("<HH", side, side))
    if kind == "JPEG":
        data = sound("JPEG")
        return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", side, side))
    return patched(sound("animated WEBP"), 24, (side - 1).to_bytes(3, "little") * 2)


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_fault_20_a_huge_header_is_refused_before_decoding(kind: str) -> None:
    with pytest.raises(ImageError, match="60000×60000 pixels, more than the 50,000,000 allowed"):
        decode(huge(kind))


@pytest.mark.usefixtures("undecoded")
def test_fault_20_a_gif_frame_may_not_grow_beyond_the_limit() -> None:
    data = animated("GIF")
    frame = data.index(b"\x2c\0\0\0\0")
    with pytest.raises(ImageError, match="65535×65535 pixels"):
        decode(patched(data, frame + 5, struct.pack("<HH", 65535, 65535)))


@pytest.mark.usefixtures("undecoded")
def test_fault_21_a_small_file_of_88_megapixels_meets_our_own_cap() -> None:
    side = 9_400
    data = png(side, side, (b"\0" + bytes(side // 8)) * side, depth=1, colour=0)
    assert len(data) < 100_000
    with pytest.raises(ImageError, match="9400×9400 pixels, more than"):
        decode(data)


def test_fault_21_the_cap_is_the_callers_to_choose() -> None:
    data = encoded(draw(60, 40, 1))
    assert decode(data, limits=ImageLimits(max_pixels=2400)).size == (60, 40)
    with pytest.raises(ImageError, match=r"raise ImageLimits\.max_pixels"):
        decode(data, limits=ImageLimits(max_pixels=2399))
    with pytest.raises(ImageError, match=r"raise ImageLimits\.max_bytes"):
        decode(data, limits=ImageLimits(max_bytes=len(data) - 1))


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_fault_22_a_png_with_too_few_rows_is_cut_off(rows: int) -> None:
    row = b"\0" + bytes(30)
    assert decode(png(10, 10, row * 10)).size == (10, 10)
    with pytest.raises(ImageError, match="cut off"):
        decode(png(10, 10, row * rows))
    with pytest.raises(ImageError, match="cut off"):
        decode(png(10, 10, (row * 10)[:-1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lenient", [False, True], ids=["", "Pillow told to be lenient"])
def test_fault_23_an_image_cut_anywhere_is_an_image_error(
    kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = sound(kind)
    ends_early = 2 if kind == "GIF" else 0  # a GIF's frame is whole without the file's last mark
    for place in range(0, len(data) - ends_early, 1 if len(data) < 300 else 37):
        with pytest.raises(ImageError):
            decode(data[:place])
    for place in range(len(data) - 20, len(data) - ends_early):
        if kind.endswith("JPEG") and place >= len(data) - 2 and whole(data[:place], data):
            continue  # a part of the end marker is missing, which some decoders do not need for the last block
        with pytest.raises(ImageError):
            decode(data[:place])
    assert decode(data).mode == "RGB"


def whole(cut: bytes, data: bytes) -> bool:
    try:
        return decode(cut).tobytes() == decode(data).tobytes()
    except ImageError:
        return False


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_changed_bytes_give_an_image_or_an_image_error(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(sound(kind))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        image = decode(bytes(data), limits=ImageLimits(max_pixels=100_000))
    except ImageError as error:
        assert "0x" not in str(error)
    else:
        assert image.mode == "RGB"


@given(data=st.binary(max_size=200), head=st.sampled_from([PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF89a", b"RIFF"]))
def test_nonsense_after_a_good_beginning_is_an_image_error(data: bytes, head: bytes) -> None:
    with pytest.raises(ImageError):
        decode(head + data)


def text_chunk(kind: bytes, packed: bytes) -> bytes:
    head = {b"zTXt": b"note\0\0", b"iTXt": b"note\0\1\0en\0note\0", b"iCCP": b"profile\0\0"}[kind]
    return chunk(kind, head + packed)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_fault_33_text_and_profiles_that_explode_are_refused_in_bounded_memory(kind: bytes) -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(60)) + packer.flush()
    data = png(1, 1, bytes(4), extra=text_chunk(kind, bomb))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="unpacks to more than 4,194,304 bytes"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_fault_33_many_small_bombs_count_together() -> None:
    part = text_chunk(b"zTXt", zlib.compress(bytes(1_000_000), 9))
    assert decode(png(1, 1, bytes(4), extra=part * 4)).size == (1, 1)
    with pytest.raises(ImageError, match="unpacks to more"):
        decode(png(1, 1, bytes(4), extra=part * 5))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_that_cannot_be_unpacked_is_left_out(kind: bytes) -> None:
    assert decode(png(1, 1, bytes(4), extra=text_chunk(kind, b"nonsense"))).size == (1, 1)
    assert decode(png(1, 1, bytes(4), extra=chunk(kind, b""))).size == (1, 1)


def test_fault_33_pixels_beyond_the_last_row_are_not_inflated() -> None:
    packer = zlib.compressobj(9)
    bomb = packer.compress(bytes(4)) + b"".join(packer.compress(bytes(1_000_000)) for _ in range(60))
    data = png(1, 1, b"", packed=bomb + packer.flush())
    tracemalloc.start()
    try:
        assert decode(data).size == (1, 1)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_png_is_handed_on_without_what_nobody_needs() -> None:
    extra = chunk(b"tEXt", b"note\0hello") + text_chunk(b"zTXt", zlib.compress(b"hello"))
    assert inspect(png(1, 1, bytes(4), extra=extra)).data == png(1, 1, bytes(4))
    assert b"fdAT" in sound("APNG")
    assert b"fdAT" not in inspect(sound("APNG")).data


def test_a_png_of_countless_chunks_is_refused() -> None:
    with pytest.raises(ImageError, match="damaged"):
        decode(png(1, 1, bytes(4), extra=chunk(b"tEXt", b"") * 70_000))


def test_a_jpeg_of_countless_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sound("progressive JPEG")
    scan = data.rindex(b"\xff\xda")
    bomb = data[:scan] + data[scan:-2] * 200 + data[-2:]
    for most in (64 * 1024, 3, 1):
        monkeypatch.setattr(ImageFile, "MAXBLOCK", most)
        with pytest.raises(ImageError, match="more than 100 scans"):
            decode(bomb)


@pytest.mark.parametrize("tail", [b"\0" * 100, b"<html>", b"\xff\xd8\xff"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_what_follows_the_image_is_not_read(kind: str, tail: bytes) -> None:
    if kind != "JPEG":  # its decoder stops at the end marker
        assert tail not in inspect(sound(kind) + tail).data[-len(tail) :]
    assert decode(sound(kind) + tail).tobytes() == decode(sound(kind)).tobytes()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG"])
def test_a_jpeg_is_the_same_in_steps_of_any_length(kind: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sound(kind)
    filled = data.replace(b"\xff\xda", b"\xff" * 9 + b"\xda").replace(b"\xff\xd9", b"\xff" * 5 + b"\xd9")
    expected = [decode(data).tobytes(), decode(filled).tobytes()]
    monkeypatch.setattr(jpeg, "_STEP", step)
    monkeypatch.setattr(ImageFile, "MAXBLOCK", step)  # of what a decoder takes at a time
    assert [decode(data).tobytes(), decode(filled).tobytes()] == expected
    assert expected[0] == expected[1]


def test_a_jpeg_without_a_frame_or_without_a_scan_is_damaged() -> None:
    data = sound("JPEG")
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    length = struct.unpack_from(">H", data, frame + 2)[0] + 2
    without_frame = data[:frame] + data[frame + length :]
    twice = data[: frame + length] + data[frame:]
    for broken in (without_frame, data[:scan] + b"\xff\xd9", twice):
        with pytest.raises(ImageError, match="damaged"):
            decode(broken)


@pytest.mark.parametrize(("depth", "colour"), [(3, 0), (16, 3), (4, 2), (8, 1), (8, 5), (8, 7), (0, 0)])
def test_a_png_header_of_no_known_kind_is_damaged(depth: int, colour: int) -> None:
    with pytest.raises(ImageError, match="damaged"):
        decode(png(1, 1, bytes(20), depth=depth, colour=colour))
