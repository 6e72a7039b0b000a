"""The images of one prompt as features: encoded when first needed, kept until their part of the prompt is computed."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import torch

from llama4_local.model.vision import encode_tiles
from llama4sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from llama4_local.model.transformer import Model
    from llama4sdk.images import Tiles


class ImageFeatures:
    """Features for the image placeholders of a prompt.

    Args:
        model: Encodes tiles.
        token_ids: The prompt.
        tiles: The pixels of each image, in order.

    Raises:
        InvalidRequest: The model has no image encoder, or tiles and placeholders differ in number.
    """

    def __init__(self, model: Model, token_ids: Sequence[int], tiles: Sequence[Tiles]) -> None:
        vision = model.config.vision
        if vision is None:
            raise InvalidRequest("This checkpoint has no image encoder; send text only.")
        self._model = model
        self._tiles = tuple(tiles)
        self._encoded: list[Tensor | None] = [None] * len(self._tiles)
        self._positions = [i for i, token in enumerate(token_ids) if token == model.config.image_token_id]
        self._firsts = [0]  # for each image, how many placeholders come before it
        for image in self._tiles:
            self._firsts.append(self._firsts[-1] + len(image.levels) * vision.patch_tokens)
        if self._firsts[-1] != len(self._positions):
            raise InvalidRequest(
                f"The prompt has {len(self._positions)} image placeholders, its tiles need {self._firsts[-1]}."
            )

    @property
    def digests(self) -> list[tuple[int, str]]:
        """Position of each image's first placeholder, and the SHA-256 of its pixels."""
        firsts = zip(self._firsts, self._tiles, strict=False)
        return [(self._positions[first], image.digest) for first, image in firsts]

    def features(self, start: int, end: int) -> Tensor | None:
        """Return [placeholders, hidden] for those among tokens `start` to `end`, or None without any."""
        first, last = bisect_left(self._positions, start), bisect_left(self._positions, end)
        parts = [
            self._encode(index)[max(0, first - begin) : last - begin]
            for index, begin in enumerate(self._firsts[:-1])
            if begin < last and first < self._firsts[index + 1]
        ]
        return torch.cat(parts) if parts else None

    @property
    def bytes(self) -> int:
        """Bytes of the features that are kept now."""
        return sum(features.nbytes for features in self._encoded if features is not None)

    def forget(self, end: int) -> None:
        """Drop the features of images whose placeholders all lie before token `end`; they can be encoded again."""
        passed = bisect_left(self._positions, end)
        for index, last in enumerate(self._firsts[1:]):
            if last <= passed:
                self._encoded[index] = None

    def _encode(self, index: int) -> Tensor:
        features = self._encoded[index]
        if features is None:
            if not self._tiles[index].levels.size:
                raise InvalidRequest("An image of this session was saved without its pixels and cannot be seen again.")
            pixels = torch.from_numpy(self._tiles[index].pixels)
            features = encode_tiles(self._model, pixels).flatten(0, 1)
            self._encoded[index] = features
        return features
