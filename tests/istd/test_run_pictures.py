"""The pictures that a run leaves; the other tests of runs draw none."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from istd.data import SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer


@pytest.mark.parametrize("method", ["full", "pal"])
def test_a_run_leaves_pictures(tmp_path: Path, method: str) -> None:
    path = tmp_path / "data.h5"
    pack(SyntheticDataset(num_train=4, num_val=1, num_test=1, size=(32, 32), seed=3), path)
    Trainer(
        TrainConfig(data=str(path), method=method, epochs=1, crop=32, batch_size=4), tmp_path / "run"
    ).fit()
    folder = RunFolder(tmp_path / "run")
    assert folder.gallery.exists() == (method == "pal")
    for picture in (folder.curves, folder.overlays, *([folder.gallery] if method == "pal" else [])):
        assert cv2.imread(str(picture)).std() > 1.0, picture
