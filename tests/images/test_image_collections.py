"""Images of strangers: each equals Pillow's conversion or is refused in words.

The folder comes from the environment variable LLAMA4SDK_IMAGES and is searched with all that is below it. Documented
exceptions to Pillow's conversion: grey of more than 8 bits is scaled, not clipped; an animated PNG shows its still
image; orientation counts from EXIF data, not from XMP.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from llama4sdk.errors import ImageError
from llama4sdk.images.decode import decode, to_rgb
from llama4sdk.images.formats import sniff

FOLDER = os.environ.get("LLAMA4SDK_IMAGES", "")
ENDINGS = frozenset(".png .apng .jpg .jpeg .jpe .jfif .mpo .gif .webp .heic .avif .tif .tiff .bmp .ico .jp2".split())


def by_pillow(data: bytes) -> Image.Image | None:
    """Return Pillow's conversion over white, None where Pillow refuses the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "WEBP")) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
                if not upright.has_transparency_data:
                    return upright.convert("RGB")
                ground = Image.new("RGBA", upright.size, "white")
                return Image.alpha_composite(ground, upright.convert("RGBA")).convert("RGB")
    except Exception:
        return None


def is_exception(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        orientation_in_xmp = "exif" not in image.info and image.getexif().get(0x0112, 1) != 1
        return image.mode.startswith("I") or (data[:4] == b"\x89PNG" and b"acTL" in data) or orientation_in_xmp


def near(ours: Image.Image, theirs: Image.Image) -> bool:
    """Tell whether two images are equal, but for the last place of blended colours."""
    if ours.size != theirs.size:
        return False
    from PIL import ImageChops

    extrema = ImageChops.difference(ours, theirs).getextrema()
    return all(isinstance(pair, tuple) and pair[1] <= 1 for pair in extrema)


def verdict(data: bytes) -> str:
    """Return how a file fared: `equal`, `refused`, `exception`, `beyond Pillow`, or `different`."""
    try:
        ours = decode(data)
    except ImageError:
        return "refused"
    theirs = by_pillow(data)
    if theirs is None:
        return "beyond Pillow"
    if near(ours, theirs):
        return "equal"
    return "exception" if is_exception(data) else "different"


@pytest.mark.skipif(not FOLDER, reason="LLAMA4SDK_IMAGES names no folder")
def test_every_image_of_a_collection_equals_pillows_conversion_or_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    verdicts: dict[Path, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(Path(FOLDER).rglob("*")):
            if path.suffix.lower() in ENDINGS and path.is_file():
                verdicts[path] = verdict(path.read_bytes())
    with capsys.disabled():
        print(f"\n{len(verdicts)} images: {dict(Counter(verdicts.values()))}")
    assert verdicts
    assert not [str(path) for path, found in verdicts.items() if found == "different"]


@pytest.mark.skipif(not FOLDER, reason="LLAMA4SDK_IMAGES names no folder")
def test_a_readable_image_of_a_collection_is_refused_for_a_reason_only(capsys: pytest.CaptureFixture[str]) -> None:
    reasons: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(Path(FOLDER).rglob("*")):
            if path.suffix.lower() not in ENDINGS or not path.is_file():
                continue
            data = path.read_bytes()
            try:
                sniff(data)
                decode(data)
            except ImageError as error:
                if by_pillow(data) is not None:
                    reasons[f"{error} {path.name}"] += 1
    with capsys.disabled():
        print(f"\nread by Pillow, refused here: {dict(reasons)}")
    assert all("cut off" in reason or "more than" in reason or "damaged" in reason for reason in reasons)


@pytest.mark.skipif(not FOLDER, reason="LLAMA4SDK_IMAGES names no folder")
def test_every_image_that_pillow_opens_from_a_collection_becomes_rgb() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(Path(FOLDER).rglob("*")):
            if path.suffix.lower() not in ENDINGS or not path.is_file():
                continue
            try:
                image = Image.open(path)
            except Exception:
                continue
            with image:
                try:
                    image.load()
                except Exception:
                    continue
                with suppress(ImageError):
                    assert to_rgb(image).mode == "RGB"
