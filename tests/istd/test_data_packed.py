from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from istd.data import (
    Dataset,
    DataWarning,
    PackedDataset,
    Record,
    SyntheticDataset,
    load_split,
    open_dataset,
    pack,
)
from istd.errors import DataError, WriteError


class Odd(Dataset):
    """Images of different sizes, some without mask or points, names that are not ASCII."""

    def __init__(self) -> None:
        super().__init__(Path("odd"), "odd", {"train": ["Möwe 1", "b.c"], "test": ["雲"]})

    def _read(self, name: str) -> Record:
        i = self.names.index(name)
        rng = np.random.default_rng(i)
        size = (5 + 3 * i, 9 - i)
        image = rng.integers(0, 256, size, np.uint8)
        points = rng.integers(0, 5, (2 - i, 2))
        mask = rng.random(size) > 0.5 if i != 1 else None
        return Record(name, image, mask, points, "mended" if i == 2 else None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with pytest.warns(DataWarning):
        pack(Odd(), tmp_path / "odd.h5")
    return tmp_path / "odd.h5"


@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_everything_comes_back(file: Path) -> None:
    source, packed = Odd(), open_dataset(file)
    assert isinstance(packed, PackedDataset)
    assert packed.source_layout == "odd"
    assert packed.layout == "packed"
    assert packed.splits == source.splits
    assert packed.split_hash() == source.split_hash()
    for name in source.names:
        expected, found = source.read(name), packed.read(name)
        assert found.name == name
        assert found.image.dtype == np.uint8
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.points, expected.points)
        assert found.note == expected.note
        assert (found.mask is None) == (expected.mask is None)
        if found.mask is not None:
            assert found.mask.dtype == bool
            np.testing.assert_array_equal(found.mask, expected.mask)


def test_what_was_mended_before_packing_is_still_said(file: Path) -> None:
    with pytest.warns(DataWarning, match="mended"):
        PackedDataset(file).read("雲")


def test_packing_again_gives_the_same_data_and_replaces_the_file(tmp_path: Path) -> None:
    data = SyntheticDataset(2, 1, 1, (32, 48), seed=3)
    seen: list[tuple[int, int]] = []
    first = pack(data, tmp_path / "s.h5", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    again = pack(first, tmp_path / "s.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]
    images, expected = load_split(again, "train"), load_split(data, "train")
    assert images.images.data.equal(expected.images.data)
    assert again.split_hash() == data.split_hash()


def test_it_can_be_sent_to_another_process(file: Path) -> None:
    packed = pickle.loads(pickle.dumps(PackedDataset(file)))
    np.testing.assert_array_equal(packed.read("b.c").image, Odd().read("b.c").image)


@pytest.mark.parametrize("keep", [0, 7, 500, 0.5, 0.99])
def test_truncated_files_are_refused(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(DataError, match=r"odd\.h5.*damaged"):
        open_dataset(file)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match=r"a\.txt.*no HDF5 file"):
        open_dataset(tmp_path / "a.txt")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["weights"] = np.zeros(3)
    with pytest.raises(DataError, match=r"other\.h5.*not a packed dataset") as caught:
        open_dataset(tmp_path / "other.h5")
    assert "weights" in str(caught.value)


def test_newer_files_are_refused(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        h5.attrs["version"] = 99
    with pytest.raises(DataError, match="newer version"):
        open_dataset(file)


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    data = SyntheticDataset(1, 0, 0, (64, 64))
    pack(data, tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "r") as h5:
        chunk = h5["images"].id.get_chunk_info(0)
    damaged = bytearray((tmp_path / "s.h5").read_bytes())
    damaged[chunk.byte_offset + chunk.size // 2] ^= 0x55
    (tmp_path / "s.h5").write_bytes(damaged)
    with pytest.raises(DataError, match=r"s\.h5.*damaged"):
        open_dataset(tmp_path / "s.h5").read("train_00000")


@pytest.mark.parametrize("name", ["index", "heights", "images", "points", "has_mask"])
def test_missing_parts_are_noticed(file: Path, name: str) -> None:
    with h5py.File(file, "r+") as h5:
        del h5[name]
    with pytest.raises(DataError, match="damaged"):
        open_dataset(file)


def test_sizes_that_lie_are_noticed(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        h5["heights"][0] += 1
    with pytest.raises(DataError, match="do not fit together"):
        open_dataset(file)
    with h5py.File(file, "r+") as h5:
        h5["heights"][:] = 2**40
    with pytest.raises(DataError, match="do not fit together"):
        open_dataset(file)


def test_changed_splits_are_noticed(file: Path) -> None:
    with h5py.File(file, "r+") as h5:
        text = (
            h5["index"][()].tobytes().replace(b'"test"', b'"val" ', 1).replace(b'"val": []', b'"test":[]', 1)
        )
        h5["index"][...] = np.frombuffer(text, np.uint8)
    with pytest.raises(DataError, match="split hash"):
        open_dataset(file)


def test_links_to_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["images"] = np.zeros(10, np.uint8)
    with h5py.File(file, "r+") as h5:
        del h5["images"]
        h5["images"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "images")
    with pytest.raises(DataError, match="images is missing or lies outside"):
        open_dataset(file)


def test_bytes_kept_in_another_file_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(1000))
    with h5py.File(file, "r+") as h5:
        shape = h5["images"].shape
        del h5["images"]
        h5.create_dataset("images", shape, "u1", external=[(str(tmp_path / "raw"), 0, 1000)])
    with pytest.raises(DataError, match="images is missing or lies outside"):
        open_dataset(file)


def test_a_bad_image_leaves_the_old_file(file: Path) -> None:
    class Broken(Odd):
        def _read(self, name: str) -> Record:
            raise DataError("broken")

    before = file.read_bytes()
    with pytest.raises(DataError, match="broken"):
        pack(Broken(), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """In a process of its own, whose files may not exceed 20 kB: writing fails as on a full disk."""
    target = tmp_path / "data.h5"
    target.write_bytes(b"the previous file")
    program = f"""
        import resource, signal
        from istd.data import SyntheticDataset, pack
        from istd.errors import WriteError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            pack(SyntheticDataset(8, 0, 0, (64, 64)), {str(target)!r})
        except WriteError as error:
            print("refused:", error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith(f"refused: {target}")
    assert target.read_bytes() == b"the previous file"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        pack(SyntheticDataset(1, 0, 0, (32, 32)), tmp_path / "file" / "data.h5")
