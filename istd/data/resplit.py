"""The images of a dataset in other splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ._record import Record
from .dataset import Dataset
from .streamed import StoredPixels


class Resplit(Dataset):
    """The images of `dataset`, in `splits` instead of its own.

    Raises:
        DataError: a name occurs twice, or no split has a name.
    """

    def __init__(self, dataset: Dataset, splits: Mapping[str, Iterable[str]]) -> None:
        super().__init__(dataset.root, dataset.layout, splits)
        self.unannotated = dataset.unannotated
        self._dataset = dataset

    def content_hash(self) -> str:
        """See `Dataset.content_hash`; that of the whole dataset, which may know it."""
        same = len(self) == len(self._dataset)
        return self._dataset.content_hash() if same else super().content_hash()

    def stored_pixels(self, names: Sequence[str]) -> StoredPixels | None:
        """See `Dataset.stored_pixels`."""
        self._require(names)
        return self._dataset.stored_pixels(names)

    def _read(self, name: str) -> Record:
        return self._dataset._read(name)
