"""The images that both sides see."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from istd.data import ImageSet, SyntheticDataset, load_names, open_dataset
from istd.ragged import RaggedImages

from .timing import Job

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_images(job: Job) -> ImageSet:
    """Squares of the crop's side out of a dataset's first training images, or generated ones.

    Squares, so that neither side pads: they pad otherwise.
    """
    side, count = job["crop"], job["images"]
    if not job["data"]:
        made = SyntheticDataset(num_train=count, num_val=0, num_test=0, size=(side, side), seed=job["seed"])
        return load_names(made, made.splits["train"])
    dataset = open_dataset(job["data"])
    found = load_names(dataset, dataset.splits["train"][:count])
    index = torch.arange(len(found))
    corners = [_corner(found, number, side) for number in range(len(found))]
    top, left = (torch.tensor(column) for column in zip(*corners, strict=True))
    if found.masks is None:
        raise SystemExit(f"speed_bench: the images of {job['data']} have no masks, which metrics need")
    images, masks = (
        store.crop(index, top, left, side)[:, 0].numpy() for store in (found.images, found.masks)
    )
    points = tuple(
        inside[((inside >= 0) & (inside < side)).all(axis=1)]
        for inside in (one - np.array(corner) for one, corner in zip(found.points, corners, strict=True))
    )
    return ImageSet(
        found.names, RaggedImages.from_arrays(list(images)), RaggedImages.from_arrays(list(masks)), points
    )


def _corner(images: ImageSet, number: int, side: int) -> tuple[int, int]:
    """Where a square around the first point begins, inside the image where it is large enough."""
    place = images.points[number][0] if len(images.points[number]) else (0, 0)
    height, width = images.images.sizes[number]
    y, x = (
        min(max(int(at) - side // 2, 0), max(length - side, 0))
        for at, length in zip(place, (height, width), strict=True)
    )
    return y, x


def normalised(images: Tensor, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """What the reference's loader makes of images [B, 1, H, W] in [0, 1]: for its CNN, and for its VFM."""
    rgb = images.expand(-1, 3, -1, -1)
    centre, spread = (
        torch.tensor(part, device=images.device).view(1, 3, 1, 1)
        for part in (
            IMAGENET_MEAN,
            IMAGENET_STD,
        )
    )
    return ((rgb - mean) / std).contiguous(), (rgb - centre) / spread
