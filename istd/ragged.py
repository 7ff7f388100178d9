"""Images of different sizes, wherever they are kept; in one flat tensor a batch of crops is one gather."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from ._transfer import to_device
from .errors import DataError

_T = TypeVar("_T")


class ImageSource(ABC):
    """N gray images of any sizes, to be looked at one by one or in crops.

    What works on a split sees its images, masks and labels through this alone, so that it does not matter
    whether they are in memory (`RaggedImages`), in a file (`istd.data.StreamedImages`) or kept as a few
    pixels each (`istd.labels.SparseLabels`): all of them answer the same bits.
    """

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    @abstractmethod
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every image, in pixels."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the pixels."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where images and crops are given."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """What the pixels take in memory, in bytes."""

    @abstractmethod
    def image(self, i: int) -> Tensor:
        """Image `i` as [H, W]; not to be written to."""

    @abstractmethod
    def crop(self, index: Tensor, top: Tensor, left: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Cut one window out of each of B images.

        Args:
            index: int64 [B], which image, in [0, N).
            top: int64 [B], first row of the window; may be negative or beyond the image.
            left: int64 [B], first column.
            size: window (height, width) in pixels, or one number for both.

        Returns:
            [B, 1, height, width] in the stored dtype, on `device`; 0 outside of the image.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> ImageSource:
        """The same images, given on `device`."""


class RaggedImages(ImageSource):
    """N gray images of any sizes in memory, stored one after the other, each row by row.

    Build it with `RaggedImages.from_arrays`; the constructor takes the parts as they are.

    Attributes:
        data: [total pixels], any dtype; pixel (y, x) of image i lies at `offsets[i] + y * widths[i] + x`.
        offsets: int64 [N], where each image starts.
        heights: int64 [N], in pixels.
        widths: int64 [N], in pixels.
    """

    def __init__(self, data: Tensor, offsets: Tensor, heights: Tensor, widths: Tensor) -> None:
        self.data = data
        self.offsets = offsets
        self.heights = heights
        self.widths = widths
        # On the host: looking at one image must not wait for the device.
        self._starts = offsets.cpu().numpy()
        self._sizes = size_tuple(heights.tolist(), widths.tolist())

    @classmethod
    def empty(
        cls,
        sizes: Sequence[tuple[int, int]],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> RaggedImages:
        """Room for images of these (height, width), at least one, to be filled with `set_image`."""
        heights, widths = torch.tensor(sizes, dtype=torch.int64).unbind(1)
        ends = torch.cumsum(heights * widths, 0)
        data = torch.empty(int(ends[-1]), dtype=dtype, device=device)
        parts = (part.contiguous().to(device) for part in (ends - heights * widths, heights, widths))
        return cls(data, *parts)

    @classmethod
    def from_arrays(
        cls,
        arrays: Sequence[np.ndarray],
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> RaggedImages:
        """Copy 2-D arrays into one flat tensor.

        Args:
            arrays: N arrays [H, W], at least one; sizes may differ, dtypes may not unless `dtype` is given.
            dtype: what to store; the arrays' own dtype if None.
            device: where to store it.

        Raises:
            DataError: no array, an array that is not 2-D or has no pixel, or mixed dtypes.
        """
        if len(arrays) == 0:
            raise DataError("there is no image to store", expected="at least one 2-D array")
        for i, array in enumerate(arrays):
            if array.ndim != 2 or array.size == 0:
                raise DataError(
                    f"image {i} is not a gray image", found=f"shape {array.shape}", expected="[H, W]"
                )
        if dtype is None:
            kinds = sorted({array.dtype.name for array in arrays})
            if len(kinds) > 1:
                raise DataError(
                    "the images have different dtypes", found=", ".join(kinds), expected="one, or dtype="
                )
            dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        images = cls.empty([(array.shape[0], array.shape[1]) for array in arrays], dtype)
        for i, array in enumerate(arrays):
            images.set_image(i, array)
        return images.to(device)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every image, in pixels."""
        return self._sizes

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the pixels."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.data.device

    @property
    def nbytes(self) -> int:
        """What the pixels take in memory, in bytes."""
        return self.data.numel() * self.data.element_size()

    def image(self, i: int) -> Tensor:
        """Image `i` as [H, W]: a view, so that writing to it changes the store."""
        (height, width), offset = self._sizes[i], int(self._starts[i])
        return self.data[offset : offset + height * width].view(height, width)

    def set_image(self, i: int, image: np.ndarray | Tensor) -> None:
        """Overwrite image `i` with one of the same size, [H, W] (any dtype that converts to the stored one).

        Raises:
            DataError: the sizes differ.
        """
        source = torch.from_numpy(np.array(image, order="C")) if isinstance(image, np.ndarray) else image
        target = self.image(i)
        if source.shape != target.shape:
            raise DataError(
                f"image {i} cannot be replaced by one of another size",
                found=tuple(source.shape),
                expected=tuple(target.shape),
            )
        target.copy_(source)

    def crop(
        self,
        index: Tensor,
        top: Tensor,
        left: Tensor,
        size: int | tuple[int, int],
        fill: float = 0,
    ) -> Tensor:
        """Cut one window out of each of B images, in one gather.

        Args:
            index: int64 [B], which image, in [0, N).
            top: int64 [B], first row of the window; may be negative or beyond the image.
            left: int64 [B], first column.
            size: window (height, width) in pixels, or one number for both.
            fill: value of window pixels that lie outside the image.

        Returns:
            [B, 1, height, width] in the stored dtype, on the store's device (the arguments are moved there).
        """
        height, width = (size, size) if isinstance(size, int) else size
        device = self.device
        index, top, left = to_device(torch.stack([index, top, left]), device)  # one transfer, not three
        rows = top[:, None] + torch.arange(height, device=device)
        columns = left[:, None] + torch.arange(width, device=device)
        last_row, last_column = self.heights[index, None] - 1, self.widths[index, None] - 1
        # What lies outside is looked up at the border and overwritten.
        nearest_row = rows.clamp_min(0).minimum(last_row)
        nearest_column = columns.clamp_min(0).minimum(last_column)
        row_starts = self.offsets[index, None] + nearest_row * (last_column + 1)
        flat = row_starts[:, :, None] + nearest_column[:, None, :]
        outside = (rows != nearest_row)[:, :, None] | (columns != nearest_column)[:, None, :]
        # index_select is several times faster than data[flat] on the CPU.
        pixels = self.data.index_select(0, flat.view(-1)).view(flat.shape)
        return pixels.masked_fill_(outside, fill).unsqueeze(1)

    def to(self, device: torch.device | str) -> RaggedImages:
        """The same images on `device`; itself if it is there already."""
        data = self.data.to(device)
        if data is self.data:
            return self
        return RaggedImages(data, *(part.to(device) for part in (self.offsets, self.heights, self.widths)))


class LazySequence(Sequence[_T]):
    """A sequence whose items are made whenever they are asked for, so that not all are in memory.

    Args:
        make: position → item.
        count: how many there are.
    """

    def __init__(self, make: Callable[[int], _T], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> _T: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[_T]: ...
    def __getitem__(self, i: int | slice) -> _T | Sequence[_T]:
        if isinstance(i, slice):
            return [self._make(one) for one in range(self._count)[i]]
        return self._make(range(self._count)[i])


def size_tuple(heights: Iterable[int], widths: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """(height, width) of many images, of which those of one size share one tuple: few bytes an image."""
    shared: dict[tuple[int, int], tuple[int, int]] = {}
    return tuple(shared.setdefault(size, size) for size in zip(heights, widths, strict=True))
