"""Hidden maps of whole images on the disk, so that a frozen model looks at each training image once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import torch
import torch.nn.functional as F
from torch import Tensor

from .._cache import evict, touch
from .._files import remove_stale_partials, write_bytes
from ..errors import ModelError, WriteError
from .vfm import FrozenVFM

FORMAT = 2
_OURS = re.compile(r"[0-9a-f]{32}")  # a model's folder
_OVERHEAD = 1 << 16  # of an HDF5 file beside its data, generously


@dataclass(frozen=True)
class CacheReport:
    """What `VFMCache.fill` did.

    Attributes:
        stored: images whose maps lie on the disk now.
        left_out: images that did not fit; their maps are computed whenever they are asked for.
        bytes: size of this model's part of the cache.
    """

    stored: int
    left_out: int
    bytes: int

    def sentence(self) -> str:
        """For a person who watches."""
        left = f", {self.left_out} did not fit and are computed as they are drawn" if self.left_out else ""
        return f"hidden maps of {self.stored} images cached ({self.bytes / 2**30:.2f} GiB){left}"


class VFMCache:
    """Hidden maps of whole images, float16, one HDF5 file an image; written whole or not at all.

    The files lie in `folder/<key>/`, where the key is a hash of all that decides the maps: the model's
    fingerprint (architecture, weights, layers, normalisation), the kind of device, PyTorch's version. The
    name of a file is a hash of the image's pixels and the size that the model sees. So nothing in it can be
    out of date; what is no longer used is only in the way, and goes when room is needed.

    The limit bounds the whole folder, all models together. Room is made by removing maps that are not asked
    for now, of any model, those not used for longest first; then images are stored in the order in which they
    come, each one that still fits. What is not stored is computed when it is asked for, with the same result
    bit for bit. Files that are not the cache's own are left alone.

    Args:
        folder: where the caches of all models lie.
        vfm: the frozen model.
        limit: bytes that the folder may hold.
        least: smaller images are filled up with zeros at the bottom and on the right to at least this
            (height, width), as the crops of small images are.
    """

    def __init__(self, folder: str | Path, vfm: FrozenVFM, limit: int, least: tuple[int, int]) -> None:
        self.vfm = vfm
        self.limit = limit
        self.least = least
        device = next(vfm.model.parameters()).device
        said = f"{FORMAT}|{vfm.fingerprint}|{device.type}|{torch.__version__}"
        self._root = Path(folder)
        self.folder = self._root / hashlib.sha256(said.encode()).hexdigest()[:32]
        self._device = device

    def path(self, pixels: Tensor) -> Path:
        """The file that holds, or would hold, the maps of an image, uint8 [H, W]."""
        height, width = self._seen(pixels)
        digest = hashlib.sha256(f"{tuple(pixels.shape)}".encode())
        digest.update(pixels.detach().cpu().contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}-{height}x{width}.h5"

    def fill(
        self, images: Sequence[Tensor], progress: Callable[[int, int], None] | None = None
    ) -> CacheReport:
        """Store the maps of images, uint8 [H, W] each, as far as the limit allows, looking at one at a time.

        Raises:
            ModelError: maps beyond half precision; WriteError: the disk failed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                "the cache of hidden maps cannot be used",
                where=self.folder,
                found=error,
                fix="set ISTD_CACHE to a folder that can be written, or vfm_cache=off",
            ) from error
        remove_stale_partials(self.folder)
        paths: list[Path] = []
        wanted: dict[Path, tuple[int, int]] = {}  # path → position of the image, bytes of its file at most
        for number, image in enumerate(images):
            paths.append(self.path(image))
            if not paths[-1].exists():
                wanted[paths[-1]] = number, self._size(image)
        for path in paths:
            touch(path)
        self._make_room(sum(size for _, size in wanted.values()), keep=frozenset(paths))
        used = _size_of(self._root)
        for done, (path, (number, size)) in enumerate(wanted.items()):
            if used + size <= self.limit:
                self._write(path, self.compute(images[number]))
                used += path.stat().st_size
            if progress is not None:
                progress(done + 1, len(wanted))
        stored = sum(path.exists() for path in paths)
        return CacheReport(stored, len(paths) - stored, _size_of(self.folder))

    def has_room(self, images: Sequence[Tensor]) -> bool:
        """Whether the maps of all these images fit without removing any; then several may fill it at once."""
        sizes = {self.path(image): self._size(image) for image in images}
        wanted = sum(size for path, size in sizes.items() if not path.exists())
        return _size_of(self._root) + wanted <= self.limit

    def compute(self, pixels: Tensor) -> Tensor:
        """The maps of one image, uint8 [H, W], float16 [K, d, h, w] on the CPU.

        Raises:
            ModelError: a value that half precision cannot hold.
        """
        height, width = self._seen(pixels)
        image = pixels.to(self._device).float()[None, None] / 255
        image = F.pad(image, (0, width - pixels.shape[1], 0, height - pixels.shape[0]))
        maps = self.vfm(image)[0].half().cpu()
        if not bool(torch.isfinite(maps).all()):
            raise ModelError(
                "the hidden maps of this model do not fit in half precision",
                where=self.vfm.name,
                expected="values up to 65504, as normalised maps have",
                fix="set vfm_cache=off",
            )
        return maps

    def window(
        self, pixels: Tensor | Callable[[], Tensor], path: Path, top: int, left: int, height: int, width: int
    ) -> Tensor:
        """A window of an image's tokens from row `top`, column `left` on: float16 [K, d, height, width].

        Read from `path`, its file; computed where that is absent or damaged. Only there `pixels` are looked
        at, uint8 [H, W], or what gets them is called.
        """
        window = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
        if path.exists():
            try:
                with h5py.File(path, "r") as file:
                    return torch.from_numpy(file["maps"][window])
            except (OSError, KeyError, ValueError, TypeError, RuntimeError):
                with contextlib.suppress(OSError):
                    path.unlink()
        return self.compute(pixels() if callable(pixels) else pixels)[window]

    def _seen(self, pixels: Tensor) -> tuple[int, int]:
        return max(pixels.shape[0], self.least[0]), max(pixels.shape[1], self.least[1])

    def _size(self, pixels: Tensor) -> int:
        """Bytes of an image's file, at most."""
        (height, width), (down, right) = self._seen(pixels), self.vfm.patch_size
        return (
            2 * self.vfm.num_layers * self.vfm.embed_dim * -(-height // down) * -(-width // right) + _OVERHEAD
        )

    def _write(self, path: Path, maps: Tensor) -> None:
        layers, dim, _, width = maps.shape
        # In memory first: HDF5 must not meet a full disk, which can bring the process down. Checksums of the
        # data and, in this format, of everything else find a damaged file.
        stream = io.BytesIO()
        with h5py.File(stream, "w", libver=("v110", "v110")) as file:
            # Rows of tokens by themselves: a crop reads those it covers.
            chunks = (layers, dim, 1, width)
            file.create_dataset("maps", data=maps.numpy(), chunks=chunks, fletcher32=True)
        write_bytes(path, stream.getvalue())

    def _make_room(self, wanted: int, keep: frozenset[Path]) -> None:
        """Remove maps other than `keep` until `wanted` bytes fit or nothing else is left."""
        folders = [folder for folder in self._root.iterdir() if _OURS.fullmatch(folder.name)]
        others = [path for folder in folders for path in folder.glob("[!.]*.h5") if path not in keep]
        evict(others, _size_of(self._root) + wanted - self.limit)
        for folder in folders:
            if folder != self.folder:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only if nothing is left in it


def _size_of(folder: Path) -> int:
    """Bytes of all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
