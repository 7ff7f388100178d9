"""Places that look like targets and are none: small bright spots away from every annotated point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from .imageset import ImageSet

Points = npt.NDArray[np.int64]

_SPOT = 15  # px; brighter structures wider than this are background
_APART = 9  # px, side of the square in which a spot is the strongest
_CLEAR = 16  # px around an annotated point in which there is none


def find_distractors(image: npt.NDArray[np.uint8], points: npt.ArrayLike, count: int = 16) -> Points:
    """The strongest small bright spots of an image that are not near an annotated point.

    The strength is the white top-hat of the slightly blurred image: what an opening by a 15-pixel disc, more
    than the width of a small target, takes away. A point says where a target is, so a spot away from all of
    them is not one, as far as the annotation is complete.

    Args:
        image: uint8 [H, W].
        points: [N, 2], rows (y, x); may be empty.
        count: how many at most.

    Returns:
        int64 [M, 2], M ≤ count, rows (y, x), strongest first.
    """
    smooth = cv2.GaussianBlur(image, (3, 3), 0)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_SPOT, _SPOT))
    strength = cv2.morphologyEx(smooth, cv2.MORPH_TOPHAT, disc)
    peaks = (strength == cv2.dilate(strength, np.ones((_APART, _APART), np.uint8))) & (strength > 0)
    for y, x in np.asarray(points, np.int64).reshape(-1, 2).tolist():
        peaks[max(y - _CLEAR, 0) : y + _CLEAR + 1, max(x - _CLEAR, 0) : x + _CLEAR + 1] = False
    found = np.argwhere(peaks)
    order = np.argsort(-strength[peaks].astype(np.int64), kind="stable")
    return _apart(found[order], count)


def _apart(places: Points, count: int) -> Points:
    """The first `count` places, without those beside an earlier one: a flat top has many maxima."""
    chosen = np.zeros((0, 2), np.int64)
    for place in places:
        if len(chosen) == count:
            break
        if (np.abs(chosen - place).max(axis=1, initial=0) > _APART // 2).all():
            chosen = np.concatenate([chosen, place[None]])
    return chosen


def distractors_of(
    images: ImageSet,
    count: int = 16,
    progress: Callable[[str, int, int], None] | None = None,
    only: Sequence[int] | None = None,
) -> tuple[Points, ...]:
    """`find_distractors` for every image of a set, or for those of some numbers."""
    found = []
    numbers = range(len(images)) if only is None else only
    for done, number in enumerate(numbers, 1):
        pixels = images.images.image(number).cpu().numpy()
        found.append(find_distractors(pixels, images.points[number], count))
        if progress is not None:
            progress("looking for distractors", done, len(numbers))
    return tuple(found)
