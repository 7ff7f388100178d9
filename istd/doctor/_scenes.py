"""The same scene in two splits: frames of one video, or overlapping cuts of one image.

Local features (SIFT, Lowe 2004, in its Hellinger form, Arandjelović & Zisserman 2012) are matched between
splits. First a search tree over all features of a split proposes, for each image of another, those that most
of its features point to. Then each proposal is checked by itself: mutual nearest neighbours that pass Lowe's
ratio test must agree on one similarity transform (RANSAC). Smooth images have few features and are seldom
reported: this finds what it can prove.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from ..data.dataset import SPLITS
from .finding import Finding

_FEATURES = 200
_BUDGET = 400_000
_VOTES = 4
_PROPOSALS = 3
_RATIO = 0.8
_TOLERANCE = 3.0
_SCALES = (0.4, 2.5)

LEAST = 10
"""How many places two images must have in common. On SIRST v1 all pairs from 7 on show one scene (by eye)."""


@dataclass(frozen=True)
class SharedScene:
    """Two images of different splits that show the same scene.

    Attributes:
        first, second: their names.
        places: how many places were found in both.
        scale: size of the second relative to the first.
    """

    first: str
    second: str
    places: int
    scale: float


@dataclass
class _Features:
    name: str
    places: np.ndarray
    descriptors: np.ndarray


class SceneIndex:
    """Collects the features of images, then finds scenes that several splits share.

    Args:
        images: how many images there will be; of very many, each keeps fewer features.
    """

    def __init__(self, images: int) -> None:
        count = int(np.clip(_BUDGET // max(1, images), 40, _FEATURES))
        self._detector = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.01)
        self._splits: dict[str, list[_Features]] = {split: [] for split in SPLITS}

    def add(self, name: str, split: str, image: np.ndarray) -> None:
        """Take the features of an image, uint8 [H, W]."""
        corners, descriptors = self._detector.detectAndCompute(image, None)
        if descriptors is None or len(corners) < LEAST:
            return
        descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-6))
        places = np.array([corner.pt for corner in corners], np.float32)
        self._splits[split].append(_Features(name, places, descriptors.astype(np.float32)))

    def shared(self) -> list[SharedScene]:
        """Pairs of images of different splits that show one scene, those with most places first."""
        found = [
            scene
            for i, first in enumerate(SPLITS)
            for second in SPLITS[i + 1 :]
            for scene in _between(self._splits[first], self._splits[second])
        ]
        return sorted(found, key=lambda scene: (-scene.places, scene.first, scene.second))


def check_scenes(index: SceneIndex, split_of: Mapping[str, str], digests: Mapping[str, str]) -> list[Finding]:
    """One finding that lists all shared scenes, or none.

    Args:
        index: of all images.
        split_of: name → split.
        digests: name → hash of its pixels; equal images are duplicates, which have a finding of their own.
    """
    scenes = [scene for scene in index.shared() if digests[scene.first] != digests[scene.second]]
    if not scenes:
        return []
    return [
        Finding(
            "warning",
            "shared-scene",
            f"{len(scenes)} pairs of images in different splits show the same scene",
            tuple(scene.first for scene in scenes),
            tuple(
                f"{scene.first} ({split_of[scene.first]}) and {scene.second} ({split_of[scene.second]}): "
                f"{scene.places} places in common"
                for scene in scenes
            ),
            "keep frames of one sequence in one split; results on such a split may be too good",
        )
    ]


def _between(first: list[_Features], second: list[_Features]) -> list[SharedScene]:
    if not first or not second:
        return []
    # The trees are built at random: seeded, so that the same folder has the same findings.
    cv2.setRNGSeed(0)
    tree = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 4}, {"checks": 32})
    tree.add([one.descriptors for one in first])
    tree.train()
    scenes = []
    for one in second:
        nearest = [matches[0].imgIdx for matches in tree.knnMatch(one.descriptors, k=1) if matches]
        votes = np.bincount(nearest, minlength=len(first))
        for number in np.argsort(-votes, kind="stable")[:_PROPOSALS]:
            scene = _compare(first[number], one) if votes[number] >= _VOTES else None
            if scene is not None:
                scenes.append(scene)
    return scenes


def _compare(first: _Features, second: _Features) -> SharedScene | None:
    near = first.descriptors @ second.descriptors.T  # cosine: the descriptors have length 1
    pairs = _mutual(near)
    if len(pairs) < LEAST:
        return None
    a, b = first.places[pairs[:, 0]], second.places[pairs[:, 1]]
    cv2.setRNGSeed(0)
    transform, agreed = cv2.estimateAffinePartial2D(a, b, ransacReprojThreshold=_TOLERANCE)
    if transform is None:
        return None
    kept = agreed.reshape(-1) > 0
    # One place can have several features (of other orientation or size): count places.
    places = min(len(np.unique(np.rint(some[kept] / 2), axis=0)) for some in (a, b))
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if places < LEAST or 2 * kept.sum() < len(pairs) or not _SCALES[0] <= scale <= _SCALES[1]:
        return None
    return SharedScene(first.name, second.name, places, scale)


def _mutual(near: np.ndarray) -> np.ndarray:
    """Index pairs [N, 2] that are each other's nearest, clearly nearer than the second nearest."""
    if min(near.shape) < 2:
        return np.empty((0, 2), np.int64)
    distance = np.sqrt(np.maximum(2 - 2 * near, 0))
    best = distance.argmin(1)
    two = np.partition(distance, 1, axis=1)[:, :2]
    rows = np.flatnonzero(
        (two[:, 0] < _RATIO * two[:, 1]) & (distance.argmin(0)[best] == np.arange(len(best)))
    )
    return np.stack([rows, best[rows]], axis=1)
