"""Images that stay in the packed file: the same answers as from memory, and a run that cannot tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fault_compare import assert_same
from torch.utils._python_dispatch import TorchDispatchMode

from istd.data import CropLoader, ImageSet, PackedDataset, StreamedImages, SyntheticDataset, load_split, pack
from istd.data import _memory as memory
from istd.engine import RunFolder, TrainConfig, Trainer, load_corpus, load_state, results
from istd.engine.ranks import ALONE
from istd.errors import DataError
from istd.labels import LabelStore, SparseLabel, SparseLabels
from istd.ragged import ImageSource, RaggedImages

SIZES = [(40, 52), (33, 70), (64, 36)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streamed") / "packed.h5"
    pack(SyntheticDataset(num_train=6, num_val=3, num_test=2, size=(40, 52), seed=2), path)
    return path


def both(file: Path) -> tuple[ImageSet, ImageSet]:
    """The training split in memory, and in its file."""
    held, streamed = (load_split(PackedDataset(file), "train", memory_gb=gb) for gb in (1.0, 0.0))
    assert isinstance(held.images, RaggedImages)
    assert isinstance(streamed.images, StreamedImages)
    return held, streamed


def assert_same_images(one: ImageSource, other: ImageSource, seed: int = 0) -> None:
    """Every image, and windows of all kinds, those beside the image included."""
    assert one.sizes == other.sizes
    assert one.dtype == other.dtype
    for number in range(len(one)):
        assert torch.equal(one.image(number), other.image(number))
    rng = np.random.default_rng(seed)
    for size in (1, 16, (24, 90)):
        index = torch.from_numpy(rng.integers(0, len(one), 40))
        top, left = (torch.from_numpy(rng.integers(-60, 90, 40)) for _ in range(2))
        assert torch.equal(one.crop(index, top, left, size), other.crop(index, top, left, size))


def test_images_and_masks_in_the_file_answer_as_in_memory(file: Path) -> None:
    held, streamed = both(file)
    assert held.masks is not None
    assert streamed.masks is not None
    assert_same_images(held.images, streamed.images)
    assert_same_images(held.masks, streamed.masks)
    assert (held.nbytes, streamed.nbytes) == (6 * 2 * 40 * 52, 0)
    assert held.names == streamed.names
    for one, other in zip(held.points, streamed.points, strict=True):
        np.testing.assert_array_equal(one, other)


def test_crops_of_a_loader_are_the_same(file: Path) -> None:
    batches = []
    for images in both(file):
        assert images.masks is not None
        loader = CropLoader(images, images.masks, crop=32, batch_size=4, seed=3, augment=True)
        batches.append(loader.batch(1, 0))
    for key in ("index", "image", "label", "top", "left"):
        assert torch.equal(getattr(batches[0], key), getattr(batches[1], key))


def test_what_does_not_fit_is_streamed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = PackedDataset(file)
    need = 2 * 6 * 40 * 52
    for free, kind in ((2 * need, RaggedImages), (2 * need - 2, StreamedImages)):
        monkeypatch.setattr(memory, "_free_on_host", lambda free=free: float(free))
        assert type(load_split(dataset, "train").images) is kind
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(memory, "_free_on_host", lambda: 3.0 * need)
    assert type(load_split(dataset, "train").images) is StreamedImages
    assert type(load_split(dataset, "train", memory_gb=1.0).images) is RaggedImages


def test_the_test_images_of_a_run_get_what_the_others_leave(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 2 * 40 * 52
    config = TrainConfig(data=str(file), memory_gb=(6 + 3 + 1) * one / 2**30)
    corpus = load_corpus(config, torch.device("cpu"))
    assert (corpus.train.nbytes, corpus.val.nbytes) == (6 * one, 3 * one)
    seen: list[ImageSet] = []
    monkeypatch.setattr(results, "score_roles", lambda run, images, *more: seen.append(images))
    monkeypatch.setattr(results, "_write", lambda *all_of_it: None)
    run: Any = SimpleNamespace(
        config=config,
        corpus=corpus,
        device=torch.device("cpu"),
        folder=RunFolder(file.parent),
        ranks=ALONE,
    )
    bars: Any = None
    results._score(run, {"metrics": {}, "not_evaluated": {}}, bars)
    assert [images.nbytes for images in seen] == [0, 3 * one]


def test_what_is_free_is_the_least_of_machine_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable: 3 kB"],
        "/sys/fs/cgroup/memory.max": ["4000"],
        "/sys/fs/cgroup/memory.current": ["3500"],
        "/sys/fs/cgroup/memory.stat": ["anon 1", "inactive_file 1000"],
    }
    monkeypatch.setattr(memory, "_lines", lambda path: files.get(str(path), []))
    assert memory.pixel_budget(None, torch.device("cpu")) == 1500 / 2
    files["/sys/fs/cgroup/memory.max"] = ["max"]
    assert memory.pixel_budget(None, torch.device("cpu")) == 3072 / 2
    files.clear()
    assert memory.pixel_budget(None, torch.device("cpu")) == float("inf")
    assert memory.pixel_budget(0.5, torch.device("cpu")) == 2**29


def test_a_file_damaged_while_it_is_streamed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "packed.h5"
    pack(SyntheticDataset(num_train=2, num_val=1, num_test=1, size=(300, 300), seed=0), path)
    images = load_split(PackedDataset(path), "train", memory_gb=0.0).images
    with path.open("r+b") as stream:
        stream.seek(5000)
        stream.write(bytes(200_000))
    with pytest.raises(DataError, match="damaged"):
        images.crop(
            torch.arange(2), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 300
        )


def test_sparse_labels_answer_as_dense_ones() -> None:
    rng = np.random.default_rng(0)
    arrays = [
        np.where(rng.random(size) < share, rng.random(size, np.float32), 0).astype(np.float32)
        for size, share in zip(SIZES, (0.1, 0.0, 1.0), strict=True)
    ]
    labels = SparseLabels(map(SparseLabel.of, arrays))
    assert_same_images(labels, RaggedImages.from_arrays(arrays))
    labels.set_image(1, arrays[1] + 0.5)
    arrays[1] += 0.5
    assert_same_images(labels, RaggedImages.from_arrays(arrays))


def test_all_name_a_device_as_its_tensors_do(file: Path) -> None:
    """As with "cuda", which torch holds for another device than "cuda:0"."""
    held, streamed = both(file)
    assert held.masks is not None
    labels = SparseLabels([SparseLabel.of(held.masks.image(i).float().numpy()) for i in range(len(held))])
    there = held.to("cpu:0")
    assert labels.to("cpu:0").device == streamed.images.to("cpu:0").device == there.images.device
    assert CropLoader(there, labels.to("cpu:0"), crop=8, batch_size=2, seed=0).batch(0, 0).label.amax() == 1


class WorkOnMeta(TorchDispatchMode):
    """Notes what is done on the device "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if answer.device.type == "meta":
            self.done.append(func.overloadpacket.__name__)
        return answer


def test_crops_of_sparse_labels_are_only_copied_to_their_device() -> None:
    """Writing to places there, with repeatable kernels, would wait for a GPU in every step."""
    labels = SparseLabels([SparseLabel.of(np.eye(8, dtype=np.float32))], "meta")
    zero = torch.zeros(2, dtype=torch.int64)
    with WorkOnMeta() as work:
        crops = labels.crop(zero, zero, zero, 4)
    assert (crops.device.type, tuple(crops.shape)) == ("meta", (2, 1, 4, 4))
    assert work.done == ["_to_copy"]


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("method", ["full", "semantic-prior"])
def test_a_run_on_streamed_images_is_the_same_bit_for_bit(file: Path, tmp_path: Path, method: str) -> None:
    settings: dict[str, Any] = {"method": method, "epochs": 2, "crop": 32, "batch_size": 3, "clusters": 2}
    settings |= {"vfm": "random:test_vit", "evolve_start": 0.0, "evolve_loss": 0.0, "evolve_every": 1}
    settings |= {"outer_every": 1, "outer_steps": 1, "device": "cpu"}
    found = []
    for gb in (1.0, 0.0):
        config = TrainConfig(data=str(file), memory_gb=gb, **settings)
        found.append(Trainer(config, tmp_path / str(gb)).fit())
    held, streamed = (tmp_path / str(gb) for gb in (1.0, 0.0))
    assert found[0]["metrics"] == found[1]["metrics"]
    for role in ("student",) if method == "full" else ("student", "teacher"):
        one, other = (
            load_state(RunFolder(folder).weights(role), kind=role)["weights"] for folder in (held, streamed)
        )
        assert_same(one, other)
    if method != "full":
        stores = [LabelStore.open(RunFolder(folder).labels) for folder in (held, streamed)]
        assert stores[0].latest == stores[1].latest > 0
        assert stores[0].history()[1].changed
        for one, other in zip(stores[0].labels(), stores[1].labels(), strict=True):
            np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))
