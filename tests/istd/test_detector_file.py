"""Weight files that others wrote, or other versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from istd.engine import Detector, TrainConfig, load_detector, save_state
from istd.engine.detector import make_header
from istd.errors import CheckpointError
from istd.models import create_model


@pytest.fixture(scope="module")
def student() -> Detector:
    return Detector(
        create_model("mlclnet", mean=0.4, std=0.2), None, make_header(TrainConfig(data="x"), None, 0.4, 0.2)
    )


def write(path: Path, detector: Detector, kind: str = "student", **header: Any) -> Path:
    """A weight file whose header has other values; `...` removes one."""
    changed = {key: value for key, value in {**detector.header, **header}.items() if value is not ...}
    save_state(path, {"header": changed, "weights": dict(detector.model.state_dict())}, kind=kind)
    return path


def test_a_student_outlives_settings_of_other_versions(tmp_path: Path, student: Detector) -> None:
    path = write(tmp_path / "student.safetensors", student, config={"warp": 9})
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(load_detector(path).logits(image), student.logits(image))


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ({"backbone": ...}, "backbone"),
        ({"mean": "0.4"}, "mean"),
        ({"std": ..., "config": 3}, "std, config"),
    ],
    ids=str,
)
def test_a_header_that_lacks_something_is_named(
    tmp_path: Path, student: Detector, header: dict[str, Any], named: str
) -> None:
    path = write(tmp_path / "student.safetensors", student, **header)
    with pytest.raises(CheckpointError, match=named) as caught:
        load_detector(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"header": 1, "weights": {"a": 1}}], ids=str)
def test_other_states_are_named(tmp_path: Path, state: dict[str, Any]) -> None:
    save_state(tmp_path / "a.safetensors", state, kind="student")
    with pytest.raises(CheckpointError, match="header, weights"):
        load_detector(tmp_path / "a.safetensors")


def test_a_teacher_of_another_version_is_named(tmp_path: Path, student: Detector) -> None:
    for config in ({"warp": 9}, {}):
        path = write(tmp_path / "teacher.safetensors", student, "teacher", config=config)
        with pytest.raises(CheckpointError, match="another version"):
            load_detector(path, role="teacher")
    path = write(tmp_path / "teacher.safetensors", student, "teacher", vfm=...)
    with pytest.raises(CheckpointError, match="as vfm"):
        load_detector(path, role="teacher")
