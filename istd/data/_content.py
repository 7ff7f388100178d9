"""A fingerprint of data: the same for the same images, whatever files they come in."""

from __future__ import annotations

import hashlib

import numpy as np

from ._record import Record


class ContentHash:
    """SHA-256 over the pixels, masks and points of images, whatever the order in which they are added."""

    def __init__(self) -> None:
        self._found: dict[str, bytes] = {}

    def add(self, record: Record) -> None:
        """Add an image; every name once."""
        mask = record.mask
        points = np.asarray(record.points, "<i8")
        digest = hashlib.sha256(
            f"{record.name}\n{record.image.shape} {mask is None} {len(points)}\n".encode()
        )
        digest.update(np.ascontiguousarray(record.image, np.uint8).data)
        digest.update(b"" if mask is None else np.ascontiguousarray(mask, np.bool_).data)
        digest.update(points.tobytes())
        self._found[record.name] = digest.digest()

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return hashlib.sha256(b"".join(self._found[name] for name in sorted(self._found))).hexdigest()
