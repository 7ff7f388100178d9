"""What people's own images bring with them, and what must not go wrong without a word."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from istd.cli import app as cli
from istd.data import DataWarning, load_names, open_dataset
from istd.engine import TrainConfig, Trainer, load_corpus, trainer
from istd.engine.corpus import check_supervision, cluster_images
from istd.engine.selection import selection_rule
from istd.errors import ConfigError, DataError
from istd.viz import LabelStrip, Overlay, plot_gallery, plot_overlays

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))


def write(root: Path, images: dict[str, np.ndarray], points: dict[str, list[tuple[int, int]]]) -> Path:
    """A plain folder: the images, points.csv, and the splits by the first letter of a name: t, v or x."""
    (root / "images").mkdir(parents=True)
    for name, image in images.items():
        cv2.imwrite(str(root / "images" / f"{name}.png"), image)
    rows = [f"{name},{y},{x}" for name, some in points.items() for y, x in some]
    rows += [f"{name},," for name in images if not points.get(name)]
    (root / "points.csv").write_text("\n".join(["name,y,x", *rows]))
    for split, letter in {"train": "t", "val": "v", "test": "x"}.items():
        names = [name for name in images if name.startswith(letter)]
        (root / f"{split}.txt").write_text("\n".join(names))
    return root


def sky(seed: int, targets: list[tuple[int, int]], size: int = 32) -> np.ndarray:
    image = np.random.default_rng(seed).normal(60, 3, (size, size))
    for y, x in targets:
        image[y - 1 : y + 2, x - 1 : x + 2] += 120
    return image.astype(np.uint8)


def dataset(root: Path, val: list[tuple[int, int]]) -> Path:
    """Four training images with a target, and two of validation with those targets."""
    points = {f"t{i}": [(8 + 3 * i, 20)] for i in range(4)} | {"v0": val, "v1": val}
    return write(root, {name: sky(i, some) for i, (name, some) in enumerate(points.items())}, points)


def rule(root: Path, **settings: Any) -> str:
    config = TrainConfig(data=str(root), **settings)
    return selection_rule(config, load_corpus(config, CPU))


def test_nothing_is_selected_by_validation_images_without_a_target(tmp_path: Path) -> None:
    """Their IoU is 0 at every epoch, and the first one would have been kept."""
    full, empty = dataset(tmp_path / "full", [(5, 5)]), dataset(tmp_path / "empty", [])
    assert rule(full, method="pal") == "val-labels"
    with pytest.warns(DataWarning, match="none of the 2 validation images has a target"):
        assert rule(empty, method="pal") == "last"
    with pytest.raises(ConfigError, match="needs a validation image with a target"):
        rule(empty, method="pal", selection="val-labels")
    (empty / "masks").mkdir()
    for path in (empty / "images").iterdir():
        mask = np.zeros((32, 32), np.uint8)
        mask[5, 5] = path.stem.startswith("t")
        cv2.imwrite(str(empty / "masks" / path.name), mask)
    with pytest.warns(DataWarning, match="the last epoch"):
        assert rule(empty, method="full") == "last"
    with pytest.raises(ConfigError, match="val-masks needs a validation image with a target"):
        rule(empty, method="full", selection="val-masks")


@pytest.mark.usefixtures("without_pictures")
def test_of_epochs_that_score_nothing_the_last_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.25, 0.0, 0.0, 0.0])
    monkeypatch.setattr(trainer, "validate", lambda *_: {"val_student_iou": next(scores)})
    config = TrainConfig(
        data=str(dataset(tmp_path / "data", [(5, 5)])), method="pal", epochs=2, crop=16, batch_size=2
    )
    kept = []
    for name in ("some", "none"):
        Trainer(config, tmp_path / name, console=Console(quiet=True)).fit()
        kept.append(json.loads((tmp_path / name / "results.json").read_text())["selection"]["epoch"])
    assert kept == [1, 2]


def test_points_that_are_not_on_bright_spots_are_noticed(tmp_path: Path) -> None:
    """Exchanged coordinates stay inside a square image; hot may be black."""
    images = {f"t{i}": sky(i, [(6 + 2 * i, 24)]) for i in range(4)}
    dark = {name: 255 - image for name, image in images.items()}
    right = {f"t{i}": [(6 + 2 * i, 24)] for i in range(4)}
    exchanged = {f"t{i}": [(24, 6 + 2 * i)] for i in range(4)}
    corpora = [
        load_corpus(TrainConfig(data=str(write(tmp_path / str(number), some, points))), CPU)
        for number, (some, points) in enumerate([(images, right), (images, exchanged), (dark, right)])
    ]
    config = TrainConfig(data="x", method="pal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_supervision(config, corpora[0], "points")
    for corpus in corpora[1:]:
        with pytest.warns(DataWarning, match="3 of 3 points that were looked at are not brighter"):
            check_supervision(config, corpus, "points")


def test_an_image_too_small_to_describe_is_named(tmp_path: Path) -> None:
    points = {"t_large": [(20, 20)], "t_tiny": [(4, 4)]}
    root = write(tmp_path / "data", {"t_large": sky(0, [(20, 20)]), "t_tiny": sky(1, [(4, 4)], 12)}, points)
    data = open_dataset(root)
    with pytest.raises(DataError, match=r"t_tiny: .*\n.*\(12, 12\)"):
        cluster_images(load_names(data, data.splits["train"]), None, seed=0)


def test_names_with_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    """Two of them begin one for matplotlib, and what is no formula ended a finished run with an error."""
    name = "cost $5_{ and $6"
    image = sky(0, [(8, 8)])
    found = image > 120
    plot_overlays([Overlay(name, image, found)], tmp_path / "overlays.png", title=name)
    strip = LabelStrip(name, image, [("epoch 0", found.astype(np.float32))], found)
    plot_gallery([strip], tmp_path / "gallery.png")
    assert all(cv2.imread(str(path)).std() > 1 for path in tmp_path.glob("*.png"))
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_names_in_any_script_are_drawn_without_a_word(tmp_path: Path) -> None:
    image = sky(0, [(8, 8)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_overlays([Overlay("红外_飞机", image, image > 120)], tmp_path / "overlays.png")
    assert cv2.imread(str(tmp_path / "overlays.png")).std() > 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate"),
        MemoryError("Unable to allocate 60 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_memory_is_said_in_words(error: Exception, istd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of many megapixels, taken whole, is more than many a GPU holds."""

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    code, said = istd("eval", "somewhere")
    assert code == 2
    assert "memory" in said
    assert "--tile" in said
    assert str(error).splitlines()[0] in said
    assert "Traceback" not in said


def test_a_run_of_two_images_works(tmp_path: Path, without_pictures: None) -> None:
    """One to train on, one to choose by."""
    root = write(tmp_path / "data", {"ein Bild (ä) 1": sky(0, [(8, 8)]), "红外 2": sky(1, [(9, 20)])}, {})
    (root / "points.csv").write_text("name,y,x\nein Bild (ä) 1,8,8\n红外 2,9,20\n", encoding="utf-8")
    for path in root.glob("*.txt"):
        path.unlink()
    config = TrainConfig(data=str(root), vfm="none", epochs=1, crop=32, batch_size=2, outer_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        results = Trainer(config, tmp_path / "run", console=Console(quiet=True)).fit()
    assert results["images"] == {"train": 1, "val": 1, "test": 0}
    assert results["selection"]["rule"] == "val-labels"
