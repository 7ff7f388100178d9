"""Batches of random crops that can be had again: any step of any epoch, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..ragged import ImageSource
from .augmentation import AugmentSettings, augment
from .imageset import ImageSet


@dataclass
class Batch:
    """B crops.

    Attributes:
        index: int64 [B] on the host, which image of the `ImageSet` each crop is from.
        image: float32 [B, 1, n, n], gray levels divided by 255.
        label: float32 [B, 1, n, n] in [0, 1].
        top, left: int64 [B] on the host, where in its image each crop was cut.
    """

    index: Tensor
    image: Tensor
    label: Tensor
    top: Tensor
    left: Tensor


class CropLoader:
    """Random crops of images and labels, cut and augmented on their device.

    It has no state: `batch(epoch, step)` depends on (seed, stream, epoch, step), the pool of indices and the
    labels as they are when it is called, on nothing else. So a run goes on from any step without a stored
    generator, and the global random state is neither read nor changed.

    Each epoch visits the pool in a new order, in whole batches: what is left over waits for another epoch. A
    pool smaller than a batch fills one batch a step by repetition, each time cut anew.

    Images smaller than the crop are filled up with zeros at the bottom and on the right, label and image
    alike, as the public codes do. No such border is there when a network answers: it repeats the image's own,
    up to its stride. So crops much larger than most images waste work, and move what a network learns of
    whole images.

    Args:
        images: what to cut from; its device is where the work is done.
        labels: float32 in [0, 1] or 0/1 masks of an integer or bool dtype, same sizes and device as the
            images. The loader keeps a reference: changed labels show in the next batch.
        indices: the pool, without repetition; all images if None. Assign `loader.indices` to change it
            between epochs.
        crop: side of the square crops in pixels.
        batch_size: crops in a batch.
        seed: any integer.
        stream: a name; loaders of one seed and different streams are independent.
        augment: whether to change the crops at random, or the settings for it; see `istd.data.augmentation`.
        target_fraction: the chance that a crop is placed to contain a random point of its image, at a random
            place in the crop.
        distractors: int64 [M, 2] for every image, rows (y, x): places that could be taken for a target.
        distractor_fraction: the chance that a crop contains a random one of them instead; `target_fraction`
            and this are at most 1 together. All other crops, and those of images that have no such place, are
            cut anywhere in the image.
        align: the first row and column of every crop are multiples of this, at most the crop's side. To
            reach the last pixels all the same, a crop may then stand over the image's border by less.
        part: which crops of each batch to make, (first, number); all if None. They are those of the whole
            batch, bit for bit.

    Raises:
        ConfigError: a number out of its range.
        DataError: labels that do not fit the images, or an empty or wrong pool.
    """

    def __init__(
        self,
        images: ImageSet,
        labels: ImageSource,
        *,
        indices: Sequence[int] | None = None,
        crop: int,
        batch_size: int,
        seed: int,
        stream: str = "train",
        augment: bool | AugmentSettings = False,
        target_fraction: float = 0.5,
        distractors: Sequence[npt.NDArray[np.int64]] | None = None,
        distractor_fraction: float = 0.0,
        align: int = 1,
        part: tuple[int, int] | None = None,
    ) -> None:
        shares = (
            min(target_fraction, distractor_fraction) >= 0
            and target_fraction + distractor_fraction < 1 + 1e-9
        )
        if crop < 1 or batch_size < 1 or not shares or not 1 <= align <= crop:
            raise ConfigError(
                "the crops cannot be cut like this",
                found=f"{crop=}, {batch_size=}, {target_fraction=}, {distractor_fraction=}, {align=}",
                expected="crop and batch size of at least 1, fractions of at least 0 that together are at "
                "most 1, 1 ≤ align ≤ crop",
            )
        if labels.sizes != images.images.sizes or labels.device != images.images.device:
            raise DataError(
                "the labels do not fit the images",
                found=f"{len(labels)} labels on {labels.device}",
                expected=f"{len(images)} labels of the images' sizes on {images.images.device}",
            )
        self.images = images
        self.labels = labels
        self.crop = crop
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream
        self.target_fraction = target_fraction
        self.distractor_fraction = distractor_fraction
        self.align = align
        self.part = (0, batch_size) if part is None else part
        self._augment = (AugmentSettings() if augment else None) if isinstance(augment, bool) else augment
        self._sizes = torch.tensor(images.images.sizes)
        none = [np.zeros((0, 2), np.int64)] * len(images)
        self._targets = _Places(images.points)
        self._distractors = _Places(none if distractors is None else distractors)
        self.indices = range(len(images)) if indices is None else indices

    @property
    def indices(self) -> tuple[int, ...]:
        """The images that are drawn from."""
        return tuple(self._pool.tolist())

    @indices.setter
    def indices(self, indices: Sequence[int]) -> None:
        pool = [int(i) for i in indices]
        if not pool or min(pool) < 0 or max(pool) >= len(self.images) or len(set(pool)) != len(pool):
            raise DataError(
                "the pool of images is empty or wrong",
                found=f"{len(pool)} indices: {pool[:8]}",
                expected=f"different numbers from 0 to {len(self.images) - 1}, at least one",
            )
        self._pool = torch.tensor(pool)
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, at least 1."""
        return max(1, len(self._pool) // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from `start_step` on, each made when it is asked for."""
        for step in range(start_step, self.steps_per_epoch):
            yield self.batch(epoch, step)

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch `step` of `epoch`, both from 0 on.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} of an epoch of {self.steps_per_epoch} steps")
        index = self._epoch_order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        generator = self._generator(epoch, step)
        top, left = self._place(index, generator)
        first, count = self.part
        index, top, left = (each[first : first + count] for each in (index, top, left))
        image = self.images.images.crop(index, top, left, self.crop).float() / 255
        label = self.labels.crop(index, top, left, self.crop).float()
        if self._augment is not None:
            image, label = augment(image, label, generator, self._augment, first=first, total=self.batch_size)
        return Batch(index, image, label, top, left)

    def _generator(self, epoch: int, step: int) -> torch.Generator:
        """A generator of its own for each batch; step −1 is the order of the epoch."""
        key = f"{self.seed}\n{epoch}\n{step}\n{self.stream}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(seed)

    def _epoch_order(self, epoch: int) -> Tensor:
        """The pool in the order of the epoch, repeated to fill a batch if it is smaller."""
        if self._order is None or self._order[0] != epoch:
            generator = self._generator(epoch, -1)
            rounds = -(-self.batch_size // len(self._pool)) if len(self._pool) < self.batch_size else 1
            places = [torch.randperm(len(self._pool), generator=generator) for _ in range(rounds)]
            self._order = epoch, self._pool[torch.cat(places)]
        return self._order[1]

    def _place(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """First row and column of each crop."""
        uniform = torch.rand(4, len(index), generator=generator, dtype=torch.float64)
        target, has_target = self._targets.pick(index, uniform[0])
        distractor, has_distractor = self._distractors.pick(index, uniform[0])
        at_target = (uniform[1] < self.target_fraction) & has_target
        reached = uniform[1] < self.target_fraction + self.distractor_fraction
        at_distractor = (uniform[1] >= self.target_fraction) & reached & has_distractor
        places, at_place = torch.where(at_target[:, None], target, distractor), at_target | at_distractor
        corner = []
        for axis in (0, 1):
            # In steps of `align`: rounded up at the low end and, to reach the image's end, at the last one.
            last = -((self.crop - self._sizes[index, axis]).clamp_max(0) // self.align)
            place = places[:, axis]
            low = torch.where(at_place, -((self.crop - 1 - place).clamp_max(0) // self.align), 0)
            high = torch.where(at_place, torch.minimum(place // self.align, last), last)
            corner.append(self.align * (low + torch.floor(uniform[2 + axis] * (high - low + 1)).long()))
        return corner[0], corner[1]


class _Places:
    """Some places in every image, of which one is drawn.

    Args:
        places: int64 [N, 2] for every image, rows (y, x).
    """

    def __init__(self, places: Sequence[npt.NDArray[np.int64]]) -> None:
        self._counts = torch.tensor([len(rows) for rows in places])
        self._offsets = torch.cumsum(self._counts, 0) - self._counts
        # One row more than there are places, so that an image without any has something to be looked up.
        self._rows = torch.from_numpy(np.concatenate([*places, np.zeros((1, 2), np.int64)]))

    def pick(self, index: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """A place of each image, int64 [B, 2], by draws from [0, 1); and whether it has one, bool [B]."""
        counts = self._counts[index]
        return self._rows[self._offsets[index] + torch.floor(uniform * counts).long()], counts > 0
