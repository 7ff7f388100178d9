"""HDF5 files written piece by piece on disks that may be full, which HDF5 itself does not survive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import h5py

_T = TypeVar("_T")
_OLDEST = ("v110", "v110")
CHUNK_CACHE = 2**20  # bytes for each data set; HDF5 itself takes 1 to 8 MiB, by version


class SafeStream:
    """A file that never fails in the middle of HDF5, which can crash the process when the disk is full.

    After the first error it takes everything and writes nothing; `check` raises that error.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._error: OSError | None = None

    def check(self) -> None:
        """Write out what is buffered; raise `OSError` if anything could not be written."""
        self.flush()
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        self._try(lambda: self._stream.write(data), 0)
        return len(data)

    def flush(self) -> None:
        self._try(self._stream.flush, None)

    def truncate(self, size: int | None = None) -> int:
        return self._try(lambda: self._stream.truncate(size), 0)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(lambda: self._stream.seek(offset, whence), 0)

    def tell(self) -> int:
        return self._try(self._stream.tell, 0)

    def read(self, size: int = -1) -> bytes:
        return self._try(lambda: self._stream.read(size), bytes(max(size, 0)))

    def _try(self, action: Callable[[], _T], otherwise: _T) -> _T:
        if self._error is None:
            try:
                return action()
            except OSError as error:
                self._error = error
        return otherwise


@contextlib.contextmanager
def writing(path: Path, mode: Literal["w", "r+"] = "w") -> Iterator[tuple[h5py.File, SafeStream]]:
    """Open an HDF5 file to write, or to write on ("r+"), with what tells whether the disk still takes it.

    Nothing of the file is kept in memory but HDF5's own caches of a few MiB. The file is to be a temporary
    one (`istd._files.atomic_path`): after an error it is worth nothing.

    Raises:
        OSError: the disk failed, whenever that was; it takes precedence over what HDF5 made of it.
    """
    with path.open("w+b" if mode == "w" else "r+b") as stream:
        sink = SafeStream(stream)
        try:
            # This format has checksums of its own structure too: HDF5 can crash on a damaged one without.
            with h5py.File(sink, mode, libver=_OLDEST, rdcc_nbytes=CHUNK_CACHE) as file:
                yield file, sink
        except Exception:
            sink.check()
            raise
        sink.check()
