"""The checkpoint of an unfinished run: what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from istd.engine.run_state import LAYOUT, check_identity, load_run_state, save_run_state
from istd.engine.state_file import save_state
from istd.errors import CheckpointError


def test_state_comes_back(tmp_path: Path) -> None:
    save_run_state(tmp_path / "state.safetensors", {"position": {"epoch": 3}, "w": torch.arange(3)})
    state = load_run_state(tmp_path / "state.safetensors")
    assert state["position"] == {"epoch": 3}
    assert torch.equal(state["w"], torch.arange(3))


@pytest.mark.parametrize("layout", [None, 1, LAYOUT + 1])
def test_a_state_of_another_version_is_named(tmp_path: Path, layout: int | None) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"position": {}} if layout is None else {"layout": layout}, kind="run")
    with pytest.raises(CheckpointError, match=rf"another version(.|\n)*layout {layout or 1}(.|\n)*new run"):
        load_run_state(path)


def test_other_data_are_named() -> None:
    check_identity({"split_hash": "a", "vfm": "b"}, {"split_hash": "a", "vfm": "b"}, Path("run"))
    with pytest.raises(CheckpointError, match=r"vfm c(.|\n)*vfm b"):
        check_identity({"split_hash": "a", "vfm": "b"}, {"split_hash": "a", "vfm": "c"}, Path("run"))
