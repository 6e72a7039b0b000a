"""Grey levels of more than 8 bits, or in floating point, as 8 bits.

Pillow clips these modes at 255. Here 16-bit levels keep their high byte, as Pillow itself does with colour of 16 bits
a channel. The modes `I` and `F` carry no depth, so the levels themselves tell it: up to 255 they are 8-bit levels,
up to 65,535 they keep their high byte, and above that the highest one becomes white. In `F`, levels that nowhere exceed
1 are fractions of white. Negative levels and those that are no number are black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


def to_grey(image: Image.Image) -> Image.Image:
    """Return an image of a mode that begins with `I`, or of mode `F`, as one of mode `L`, transparency in white."""
    import numpy as np
    from PIL import Image

    levels = np.asarray(image)
    grey = _floats(levels) if image.mode == "F" else _integers(levels, fixed=image.mode != "I")
    clear = image.info.get("transparency")
    if isinstance(clear, int | float):
        grey[levels == clear] = 255
    return Image.fromarray(grey)


def _integers(levels: NDArray[Any], *, fixed: bool) -> NDArray[np.uint8]:
    import numpy as np

    positive = levels.clip(0, None)
    highest = int(positive.max(initial=0))
    bits = 16 if fixed or 0xFF < highest <= 0xFFFF else max(8, highest.bit_length())
    if bits <= 16:
        return (positive >> (bits - 8)).astype(np.uint8)
    return _scaled(positive, highest)


def _floats(levels: NDArray[Any]) -> NDArray[np.uint8]:
    import numpy as np

    numbers = np.where(np.isnan(levels), 0, levels).astype(np.float64)
    finite: NDArray[np.float64] = numbers.clip(0, float(np.finfo(np.float32).max))
    highest = float(finite[np.isfinite(numbers)].max(initial=0.0))
    if highest <= 1:
        return _scaled(finite, 1.0)
    if highest <= 0xFF:
        return _scaled(finite, 255.0)
    return _scaled(finite, 256.0 * 255 if highest <= 0xFFFF else highest)


def _scaled(levels: NDArray[Any], white: float) -> NDArray[np.uint8]:
    import numpy as np

    return np.floor(levels.astype(np.float64) * (255 / white) + 1e-6).clip(0, 255).astype(np.uint8)
