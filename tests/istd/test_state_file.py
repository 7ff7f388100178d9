from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from istd.engine import load_state, save_state
from istd.errors import CheckpointError, WriteError


def test_nested_states_come_back_exactly(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "position": {
            "epoch": 3,
            "losses": [0.1, 1 / 3, float("inf")],
            "name": "ünï",
            "none": None,
            "flag": True,
        },
        "pair": (1, torch.arange(5)),
        "empty": torch.zeros(0),
    }
    save_state(tmp_path / "a.safetensors", state, kind="run")
    loaded = load_state(tmp_path / "a.safetensors", kind="run")

    assert loaded["position"] == state["position"]
    assert loaded["pair"][0] == 1
    assert isinstance(loaded["pair"], tuple)
    assert torch.equal(loaded["pair"][1], torch.arange(5))
    assert loaded["empty"].shape == (0,)
    other = torch.optim.AdamW(torch.nn.Linear(3, 2).parameters())
    other.load_state_dict(loaded["optimizer"])
    for number, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            assert torch.equal(other.state_dict()["state"][number][key], value)


def test_tied_tensors_are_each_kept(tmp_path):
    shared = torch.arange(4.0)
    save_state(tmp_path / "a.safetensors", {"a": shared, "b": shared}, kind="run")
    loaded = load_state(tmp_path / "a.safetensors", kind="run")
    assert torch.equal(loaded["a"], shared)
    assert torch.equal(loaded["b"], shared)


def test_what_cannot_be_stored_is_refused(tmp_path):
    with pytest.raises(TypeError, match="function"):
        save_state(tmp_path / "a.safetensors", {"f": lambda: None}, kind="run")
    assert list(tmp_path.iterdir()) == []


def write_tree(path, tree):
    metadata = {"format": "1", "kind": "run", **({} if tree is None else {"tree": tree})}
    save_file({"/a": torch.ones(1)}, str(path), metadata=metadata)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"not a checkpoint"), "damaged"),
        (lambda path: save_file({"a": torch.ones(1)}, str(path)), "another program"),
        (lambda path: save_state(path, {}, kind="student"), "student"),
        (lambda path: write_tree(path, None), "no state"),
        (lambda path: write_tree(path, "[1, 2]"), "no state"),
        (lambda path: write_tree(path, '{"a": {"__tensor__": "/b"}}'), "/b"),
        (lambda path: write_tree(path, '{"a": {"__pairs__": [[[], 1]]}}'), "does not fit"),
        (lambda path: write_tree(path, '{"a": {"__pairs__": 3}}'), "does not fit"),
        (lambda path: write_tree(path, "[" * 100_000), "damaged"),
    ],
)
def test_other_files_are_named(tmp_path, make, message):
    path = tmp_path / "a.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_state(path, kind="run")
    assert str(path) in str(caught.value)


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_state(path, {"a": torch.arange(1000)}, kind="run")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(path, kind="run")


def test_a_full_disk_leaves_the_previous_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_state(path, {"a": torch.arange(3)}, kind="run")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("istd._files.os.fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        save_state(path, {"a": torch.arange(9)}, kind="run")
    monkeypatch.undo()
    assert torch.equal(load_state(path, kind="run")["a"], torch.arange(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_checkpoint_runs_no_code(tmp_path):
    path = tmp_path / "a.safetensors"
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save({"a": Bomb()}, path)
    with pytest.raises(CheckpointError):
        load_state(path, kind="run")
    assert not marker.exists()
