"""Images that stay in their file until they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._transfer import named_device, to_device
from ..ragged import ImageSource, RaggedImages

PixelReader = Callable[[int, int], npt.NDArray[np.uint8]]
"""(first, last) → the pixels first … last − 1 of a file in which all images lie one after the other."""


class StreamedImages(ImageSource):
    """Gray images in a packed file: the same answers as `RaggedImages`, bit for bit, from hardly any memory.

    Of an image only the rows that a crop covers are read, and what the file's compression makes of them: on
    images of 256² a crop costs about half a millisecond.

    Args:
        read: reads pixels of the file, uint8.
        starts: int64 [N], the first pixel of every image there.
        sizes: (height, width) of every image.
        device: where images and crops are given.
    """

    def __init__(
        self,
        read: PixelReader,
        starts: npt.NDArray[np.int64],
        sizes: tuple[tuple[int, int], ...],
        device: torch.device | str = "cpu",
    ) -> None:
        self._read = read
        self._starts = starts
        self._sizes = sizes
        self._device = named_device(device)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every image, in pixels."""
        return self._sizes

    @property
    def dtype(self) -> torch.dtype:
        """uint8."""
        return torch.uint8

    @property
    def device(self) -> torch.device:
        """Where images and crops are given."""
        return self._device

    @property
    def nbytes(self) -> int:
        """0: no pixel stays in memory."""
        return 0

    def image(self, i: int) -> Tensor:
        """Image `i` as [H, W]: read now, a copy."""
        return torch.from_numpy(self._rows(i, 0, self._sizes[i][0])).to(self._device)

    def crop(self, index: Tensor, top: Tensor, left: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Cut one window out of each of B images; see `ImageSource.crop`."""
        height, width = (size, size) if isinstance(size, int) else size
        crops = np.zeros((len(index), 1, height, width), np.uint8)
        places = zip(index.tolist(), top.tolist(), left.tolist(), strict=True)
        for crop, (i, y, x) in zip(crops[:, 0], places, strict=True):
            rows, columns = self._sizes[i]
            first, last = max(y, 0), min(y + height, rows)
            begin, end = max(x, 0), min(x + width, columns)
            if first < last and begin < end:
                found = self._rows(i, first, last)[:, begin:end]
                crop[first - y : last - y, begin - x : end - x] = found
        return to_device(torch.from_numpy(crops), self._device)

    def to(self, device: torch.device | str) -> StreamedImages:
        """The same images, given on `device`."""
        return StreamedImages(self._read, self._starts, self._sizes, device)

    def _rows(self, i: int, first: int, last: int) -> npt.NDArray[np.uint8]:
        """Rows first … last − 1 of an image, uint8 [rows, width]."""
        width, start = self._sizes[i][1], int(self._starts[i])
        return self._read(start + first * width, start + last * width).reshape(-1, width)


class StoredPixels(NamedTuple):
    """Where the pixels of some images lie.

    Attributes:
        images: gray levels.
        masks: 1 on targets and 0 elsewhere; None if any of the images lacks a mask.
    """

    images: StreamedImages
    masks: StreamedImages | None

    @property
    def num_bytes(self) -> int:
        """What they would take in memory."""
        pixels = sum(height * width for height, width in self.images.sizes)
        return pixels if self.masks is None else 2 * pixels

    def to(self, device: torch.device | str) -> StoredPixels:
        """The same, given on `device`."""
        return StoredPixels(self.images.to(device), None if self.masks is None else self.masks.to(device))

    def room(self, device: torch.device | str) -> tuple[RaggedImages, RaggedImages | None]:
        """Memory for these images and masks, to be filled."""
        sizes: Sequence[tuple[int, int]] = self.images.sizes
        masks = None if self.masks is None else RaggedImages.empty(sizes, torch.uint8, device)
        return RaggedImages.empty(sizes, torch.uint8, device), masks
