"""Labels by their nonzero pixels: with small targets, a few hundred bytes an image instead of megabytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._transfer import named_device, to_device
from ..errors import LabelError
from ..ragged import ImageSource, size_tuple
from ._checks import check_unit_map

LabelMap = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class SparseLabel:
    """The label of one image.

    Attributes:
        size: (height, width) in pixels.
        pixel: int32 [P], flat positions y·width + x, ascending.
        value: float32 [P], in [0, 1]; 0 everywhere else.
    """

    size: tuple[int, int]
    pixel: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]

    @classmethod
    def of(cls, label: LabelMap) -> SparseLabel:
        """The sparse form; "zero" means the bit pattern, so that every label comes back bit for bit."""
        flat = np.ascontiguousarray(label, dtype=np.float32).reshape(-1)
        pixel = np.flatnonzero(flat.view(np.uint32)).astype(np.int32)
        return cls((label.shape[0], label.shape[1]), pixel, flat[pixel])

    def dense(self) -> LabelMap:
        """The label, float32 [H, W]."""
        flat = np.zeros(self.size[0] * self.size[1], np.float32)
        flat[self.pixel] = self.value
        return flat.reshape(self.size)

    def equals(self, other: SparseLabel) -> bool:
        """Whether both hold the same label, bit for bit."""
        return (
            self.size == other.size
            and np.array_equal(self.pixel, other.pixel)
            and np.array_equal(self.value.view(np.uint32), other.value.view(np.uint32))
        )


def to_sparse(label: LabelMap | SparseLabel, name: str) -> SparseLabel:
    """The sparse form of a label that is float32 [H, W] within [0, 1], or a `LabelError`."""
    if isinstance(label, SparseLabel):
        pixel, value = label.pixel, label.value
        inside = pixel.size == 0 or (pixel[0] >= 0 and pixel[-1] < label.size[0] * label.size[1])
        if not (inside and (np.diff(pixel) > 0).all() and ((value >= 0) & (value <= 1)).all()):
            raise LabelError(
                f"the sparse label of image {name!r} is wrong", expected="ascending pixels, values in [0, 1]"
            )
        return label
    check_unit_map(label, f"label of image {name!r}")
    if label.dtype != np.float32:
        raise LabelError(f"the label of image {name!r} is not float32", found=label.dtype, expected="float32")
    return SparseLabel.of(label)


class SparseLabels(ImageSource):
    """The soft labels of a split, in memory as sparse as they are.

    A label takes 8 bytes for each nonzero pixel, whatever the size of its image. Crops are put together on
    the host, from the pixels that they contain.

    Args:
        labels: of all images, in their order; the objects are shared, never changed.
        device: where images and crops are given.
    """

    def __init__(self, labels: Iterable[SparseLabel], device: torch.device | str = "cpu") -> None:
        self._labels = list(labels)
        self._device = named_device(device)
        self._sizes = size_tuple(*zip(*(label.size for label in self._labels), strict=True))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every label, in pixels."""
        return self._sizes

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where labels and crops are given."""
        return self._device

    @property
    def nbytes(self) -> int:
        """What positions and values take in memory, in bytes."""
        return sum(label.pixel.nbytes + label.value.nbytes for label in self._labels)

    def sparse(self, i: int) -> SparseLabel:
        """Label `i` as it is kept."""
        return self._labels[i]

    def image(self, i: int) -> Tensor:
        """Label `i`, float32 [H, W]; a copy."""
        return torch.from_numpy(self._labels[i].dense()).to(self._device)

    def set_image(self, i: int, label: LabelMap | SparseLabel) -> None:
        """Replace label `i` by one of the same size, float32 [H, W] within [0, 1].

        Raises:
            LabelError: another size, type or range.
        """
        fresh = to_sparse(label, str(i))
        if fresh.size != self._sizes[i]:
            raise LabelError(
                f"label {i} cannot be replaced by one of another size",
                found=fresh.size,
                expected=self._sizes[i],
            )
        self._labels[i] = fresh

    def crop(self, index: Tensor, top: Tensor, left: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Cut one window out of each of B labels; see `ImageSource.crop`."""
        height, width = (size, size) if isinstance(size, int) else size
        places = zip(index.tolist(), top.tolist(), left.tolist(), strict=True)
        found = [self._window(i, y, x, height, width) for i, y, x in places]
        area = height * width
        flat = np.concatenate([pixel + number * area for number, (pixel, _) in enumerate(found)])
        values = np.concatenate([value for _, value in found])
        # Whole on the host: writing to places waits for a GPU where kernels have to be repeatable.
        crops = torch.zeros(len(found) * area, pin_memory=self._device.type == "cuda")
        crops.index_copy_(0, torch.from_numpy(flat), torch.from_numpy(values))
        return to_device(crops.view(len(found), 1, height, width), self._device)

    def to(self, device: torch.device | str) -> SparseLabels:
        """The same labels, given on `device`."""
        return SparseLabels(self._labels, device)

    def _window(
        self, i: int, top: int, left: int, height: int, width: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Positions in a window of the nonzero pixels that lie in it, int64 [P], and their values."""
        label = self._labels[i]
        columns = label.size[1]
        # Only the rows of the window: positions ascend.
        rows = np.array([top, top + height], np.int64).clip(0, label.size[0]) * columns
        first, last = np.searchsorted(label.pixel, rows.astype(np.int32))
        y, x = np.divmod(label.pixel[first:last].astype(np.int64), columns)
        x -= left
        inside = (x >= 0) & (x < width)
        return ((y - top) * width + x)[inside], label.value[first:last][inside]
