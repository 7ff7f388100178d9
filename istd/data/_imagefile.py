"""Image files to arrays, with every fault named."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataError

IMAGE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
_FORMATS = ("PNG", "BMP", "JPEG", "TIFF")
MAX_PIXELS = 2**26
"""Largest image that is decoded, in pixels (8192 × 8192): a small file can hold a huge image."""


def read_gray(path: Path) -> np.ndarray:
    """Read an image as uint8 [H, W].

    Colour becomes gray by OpenCV's decoder (ITU-R 601 weights, as `cv2.imread(path, IMREAD_GRAYSCALE)`), and
    alpha is dropped. 16-bit images whose values exceed 255 are stretched linearly from their own minimum and
    maximum to 0 and 255: a raw sensor uses a few of the 16 bits, and its brightest pixel may be the target.

    Raises:
        DataError: missing, unreadable, truncated, of another format, too large, or neither 8 nor 16 bit.
    """
    return to_8_bit(read_gray_values(path))


def to_8_bit(gray: np.ndarray) -> np.ndarray:
    """Gray values as stored, uint8 or uint16, as uint8; how, says `read_gray`."""
    if gray.dtype == np.uint8:
        return gray
    low, high = int(gray.min()), int(gray.max())
    if high > 255:
        return np.rint((gray.astype(np.float64) - low) * 255 / max(high - low, 1)).astype(np.uint8)
    return gray.astype(np.uint8)


def read_gray_values(path: Path) -> np.ndarray:
    """Read an image as uint8 or uint16 [H, W], values as stored; colour and alpha as in `read_gray`.

    Raises:
        DataError: as for `read_gray`.
    """
    return _decode(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)


def read_raw(path: Path) -> np.ndarray:
    """Read an image as stored: uint8 or uint16, [H, W], [H, W, 3] (BGR) or [H, W, 4]; palettes are expanded.

    Raises:
        DataError: as for `read_gray`.
    """
    return _decode(path, cv2.IMREAD_UNCHANGED)


def read_mode(path: Path) -> str:
    """Pillow's name for the kind of pixels in a file that can be read: 'L', 'RGB', 'RGBA', 'P', 'I;16', …"""
    with Image.open(path, formats=_FORMATS) as image:
        return image.mode


def read_mask(path: Path, threshold: float | None = None) -> np.ndarray:
    """Read a mask as bool [H, W], true on targets.

    A mask is binary: 0 and at most one other value, whichever (1 or 255 in practice; of colours, the largest
    channel counts). Anything else is refused, because a gray mask is nearly always the wrong file, and where
    to cut it is not ours to guess. All 427 masks of SIRST v1 pass this rule. For masks with soft edges, from
    anti-aliased drawing, resizing or JPEG, the caller says so with `threshold`.

    Args:
        path: the file.
        threshold: None, or the part of the mask's maximum above which a pixel is target, in (0, 1).
            Even then at most 5 % of the pixels may be between 1/8 and 7/8 of the maximum.

    Raises:
        DataError: not binary; or as for `read_gray`.
    """
    # Not IMREAD_UNCHANGED: that leaves out the turn in a file's EXIF data, which `read_gray` follows.
    raw = _decode(path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    mask = raw if raw.ndim == 2 else raw[..., :3].max(2)
    values = np.unique(mask)
    top = int(values[-1])
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return np.ascontiguousarray(mask > 0)
    soft = float(np.mean((mask > top / 8) & (mask < top * 7 / 8)))
    if threshold is not None and values[0] < top / 8 and soft <= 0.05:
        return np.ascontiguousarray(mask > threshold * top)
    shown = ", ".join(str(v) for v in values[:8]) + (f", … {top}" if len(values) > 8 else "")
    raise DataError(
        "the mask is not binary",
        where=path,
        found=f"{len(values)} values: {shown}; {soft:.1%} of the pixels between 1/8 and 7/8 of the largest",
        expected="0 and at most one other value",
        fix="give a binary mask; if only the edges of its targets are gray (anti-aliasing, JPEG), cut them: "
        "`istd pack FOLDER --mask-threshold 0.5`, then train on the packed file",
    )


def _decode(path: Path, flags: int) -> np.ndarray:
    """Decode with OpenCV, after Pillow has checked the header and decoded the file to its end.

    OpenCV returns a truncated image as far as it goes, without a word; Pillow raises. Neither looks at all
    checksums of a PNG while it decodes; `verify` does. A damaged file can make any of them raise nearly
    anything, hence the broad `except`.
    """
    if not path.is_file():
        raise DataError("the image file is missing", where=path, fix="see whether the folder is complete")
    try:
        with warnings.catch_warnings():
            # Pillow's own size limit warns first and raises later; ours is stricter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            data = path.read_bytes()
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                image.verify()
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(path, f"{image.height} × {image.width} pixels")
                if getattr(image, "n_frames", 1) > 1:
                    raise _unusable(path, "several pages, of which one would be taken")
                image.load()
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error
    except UnidentifiedImageError as error:
        raise _unusable(path, "another kind of file, or a damaged one") from error
    except Exception as error:
        raise _unusable(path, error) from error
    if array is None:
        raise _unusable(path, "OpenCV cannot decode it")
    if array.dtype not in (np.uint8, np.uint16):
        raise _unusable(path, f"pixels of type {array.dtype}")
    return np.ascontiguousarray(array)


def _unusable(path: Path, found: object) -> DataError:
    return DataError(
        "the image cannot be read",
        where=path,
        found=found,
        expected="a whole 8- or 16-bit PNG, BMP, JPEG or TIFF file with one page",
        fix="copy or export the file again, or take it out of the folder and its name out of the split",
    )


def _too_large(path: Path, found: object) -> DataError:
    return DataError(
        "the image is too large to be decoded safely",
        where=path,
        found=found,
        expected=f"at most {MAX_PIXELS} pixels",
        fix="cut it into tiles",
    )
