"""The checkpoint of an unfinished run: what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from istd.engine.run_state import (
    LAYOUT,
    check_config,
    check_identity,
    last_run_state,
    load_run_state,
    previous_path,
    save_run_state,
)
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
    with pytest.raises(CheckpointError, match=r"vfm=c(.|\n)*vfm=b"):
        check_identity({"split_hash": "a", "vfm": "b"}, {"split_hash": "a", "vfm": "c"}, Path("run"))


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """A checkpoint that was written twice: 1 is kept beside 2."""
    path = tmp_path / "last.safetensors"
    for number in (1, 2):
        save_run_state(path, {"number": number, "w": torch.full((500,), float(number))})
    assert load_run_state(previous_path(path))["number"] == 1
    return path


def test_a_damaged_checkpoint_gives_way_to_the_one_before(twice: Path) -> None:
    said: list[str] = []
    data = bytearray(twice.read_bytes())
    data[-7] ^= 4
    twice.write_bytes(data)
    state = last_run_state(twice, said.append)
    assert state is not None
    assert state["number"] == 1
    assert len(said) == 1
    assert str(twice) in said[0]
    assert "checksum" in said[0]
    # It has taken the name, so that the next checkpoint replaces the damaged one, not the whole one.
    assert not previous_path(twice).exists()
    assert load_run_state(twice)["number"] == 1


def test_a_process_that_died_between_the_renames_loses_nothing(twice: Path) -> None:
    twice.unlink()
    state = last_run_state(twice, lambda said: None)
    assert state is not None
    assert state["number"] == 1
    assert twice.exists()


def test_two_damaged_checkpoints_are_named(twice: Path) -> None:
    for path in (twice, previous_path(twice)):
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"last\.safetensors.*damaged"):
        last_run_state(twice, print)


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert last_run_state(tmp_path / "last.safetensors", print) is None


def test_a_checkpoint_of_another_version_is_not_passed_over(twice: Path) -> None:
    save_state(twice, {"layout": LAYOUT + 1}, kind="run", previous=previous_path(twice))
    with pytest.raises(CheckpointError, match="another version"):
        last_run_state(twice, print)


def test_another_configuration_is_named() -> None:
    saved = {"lr": 1e-3, "data": "a.h5"}
    check_config(saved, {"lr": 1e-3, "data": "moved.h5"}, Path("config.json"))
    check_config(None, {"lr": 2e-3}, Path("config.json"))
    with pytest.raises(CheckpointError, match=r"config\.json(.|\n)*lr=0.002(.|\n)*lr=0.001"):
        check_config(saved, {"lr": 2e-3, "data": "a.h5"}, Path("config.json"))
