"""Fuzzing of checkpoints and weight files: whole, or refused by name."""

from __future__ import annotations

import copy
import json
import math
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import JSON, altered, answer, damaged, fuzz, in_small_child, put
from hypothesis import given
from hypothesis import strategies as st

from istd.engine import TrainConfig, load_detector
from istd.engine.detector import Detector, make_header
from istd.engine.position import Position
from istd.engine.run_state import LAYOUT, fitting, load_run_state, save_run_state
from istd.engine.state_file import load_state, read_kind, save_state
from istd.errors import CheckpointError
from istd.models import create_model

_CONFIG = TrainConfig(data="x", method="pal", epochs=4)
_HEADER = make_header(_CONFIG, None, 0.4, 0.2, "a" * 64)


def _made(write: Callable[[Path], object], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"made{suffix}"
        write(path)
        return path.read_bytes()


_STATE: dict[str, Any] = {
    "position": {"epoch": 1, "losses": [0.5], "noted": {}},
    "method": {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "groups": ({"lr": 0.1},)}},
}
_CHECKPOINT = _made(lambda path: save_run_state(path, _STATE), ".safetensors")


@pytest.fixture(scope="module")
def student() -> bytes:
    torch.manual_seed(0)
    detector = Detector(create_model("mlclnet"), None, _HEADER)
    return _made(detector.save_student, ".safetensors")


def _with_head(data: bytes, head: Any) -> bytes:
    """A safetensors file with another header in front of the same numbers."""
    size = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _head(data: bytes) -> Any:
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


_TREE = json.loads(_head(_CHECKPOINT)["__metadata__"]["tree"])


def _with_tree(tree: Any) -> bytes:
    head = copy.deepcopy(_head(_CHECKPOINT))
    head["__metadata__"]["tree"] = json.dumps(tree)
    return _with_head(_CHECKPOINT, head)


@fuzz(6)
@given(
    damaged(_CHECKPOINT)
    | altered(_head(_CHECKPOINT)).map(lambda head: _with_head(_CHECKPOINT, head))
    | altered(_TREE).map(_with_tree)
)
def test_checkpoints_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "last.safetensors", data)
        read_kind(path)
        state = answer(lambda: load_run_state(path), path)
    assert state is None or state["layout"] == LAYOUT


@fuzz(1)
@given(st.data())
def test_weight_files_are_read_or_refused(student: bytes, data: st.DataObject) -> None:
    state = {"header": data.draw(altered(_HEADER)), "weights": {"a": torch.zeros(1)}}
    kind = data.draw(st.sampled_from(["student", "teacher", "run"]))
    role = data.draw(st.sampled_from([None, "student", "teacher"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(damaged(student)))
        else:
            try:
                save_state(path, state, kind=kind)
            except UnicodeEncodeError:  # safetensors keeps Unicode only
                return
        detector = answer(lambda: load_detector(path, role=role), path, "no backbone")
    if detector is not None:
        assert all(torch.isfinite(value).all() for value in detector.model.state_dict().values())


_WEIGHTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda value: value.double(),
    lambda value: value.to(torch.float16),
    lambda value: value.long(),
    lambda value: value * math.nan,
    lambda value: value[..., None],
    lambda value: value.bool(),
]


@fuzz(0.5)
@given(st.sampled_from(range(len(_WEIGHTS))), st.integers(0, 1000), st.booleans())
def test_weights_of_other_shapes_and_kinds(student: bytes, change: int, which: int, drop: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "student.safetensors", student)
        state = load_state(path, kind="student")
        name = sorted(state["weights"])[which % len(state["weights"])]
        state["weights"][name] = _WEIGHTS[change](state["weights"][name])
        if drop:
            del state["weights"][name]
        save_state(path, state, kind="student")
        detector = answer(lambda: load_detector(path), path)
    assert drop is False or detector is None
    assert detector is None or all(torch.isfinite(v).all() for v in detector.model.state_dict().values())


def test_safetensors_files_that_claim_to_be_huge_take_no_memory(tmp_path: Path) -> None:
    path = put(tmp_path / "student.safetensors", struct.pack("<Q", 2**60) + b"{}")
    assert in_small_child(lambda: load_detector(path)) == "DamagedStateError"


# What the fuzzing found.


@pytest.mark.parametrize("change", [{"mean": math.nan}, {"std": math.inf}, {"std": -1.0}, {"mean": 10**400}])
def test_a_weight_file_of_senseless_statistics_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "student.safetensors"
    save_state(path, {"header": {**_HEADER, **change}, "weights": {}}, kind="student")
    with pytest.raises(CheckpointError, match="nothing usable as"):
        load_detector(path)


@pytest.mark.parametrize(("change", "words"), [(2, "of another kind of number"), (3, "not finite")])
def test_weights_that_would_detect_nothing_are_refused(
    student: bytes, tmp_path: Path, change: int, words: str
) -> None:
    path = put(tmp_path / "student.safetensors", student)
    state = load_state(path, kind="student")
    name = next(
        name for name, value in state["weights"].items() if value.is_floating_point() and value.dim() > 1
    )
    state["weights"][name] = _WEIGHTS[change](state["weights"][name])
    save_state(path, state, kind="student")
    with pytest.raises(CheckpointError, match=f"{words}: {name}"):
        load_detector(path)


def test_a_state_that_does_not_fit_its_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    with pytest.raises(CheckpointError, match=r"last\.safetensors.*\n.*KeyError: 'position'"), fitting(path):
        _ = {}["position"]
    with pytest.raises(CheckpointError, match="not the numbers of a position"), fitting(path):
        Position(**{"epoch": "1"})


@fuzz(3)
@given(JSON)
def test_positions_are_taken_or_refused(values: Any) -> None:
    def take() -> Position:
        with fitting(Path("last.safetensors")):
            return Position(**values)

    position = answer(take, "last.safetensors")
    assert position is None or position.epoch >= 0
