"""Nested states (tensors, numbers, strings, lists, dicts) as one safetensors file: loading runs no code.

Safetensors has no checksum, so a flipped bit would be a changed weight. Files of format 2 hold a SHA-256
digest of all that they say; files of format 1 have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._files import atomic_path
from ..errors import CheckpointError

FORMAT_VERSION = 2
_TENSOR, _TUPLE, _PAIRS = "__tensor__", "__tuple__", "__pairs__"
_DIGEST = "sha256"


class DamagedStateError(CheckpointError):
    """A file of `save_state` that has not come through whole; another copy may have."""


def save_state(
    path: str | Path, state: Mapping[str, Any], *, kind: str, previous: Path | None = None
) -> None:
    """Write `state` to `path`, whole or not at all.

    Args:
        path: the file to write.
        state: nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        kind: what the file is (`"run"`, `"student"`, …); `load_state` checks it.
        previous: if given, the file that was there is kept under this name.

    Raises:
        TypeError: the state holds something else, such as a function.
        WriteError: the disk refused.
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors)
    metadata = {"format": str(FORMAT_VERSION), "kind": kind, "tree": json.dumps(tree)}
    metadata[_DIGEST] = _digest(metadata, tensors)
    with atomic_path(path, previous=previous) as partial:
        try:
            save_file(tensors, str(partial), metadata=metadata)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error


def load_state(path: str | Path, *, kind: str, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: no such file, damaged (`DamagedStateError`), of another kind or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("the checkpoint does not exist", where=path, expected=f"a {kind} checkpoint")
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as stream:
            metadata = stream.metadata() or {}
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (not a dict)
        found_kind = metadata.get("kind")
        version = int(metadata.get("format", "0"))
        tree = json.loads(metadata.get("tree", "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _damaged(path, kind, error) from error
    # First of all: a flipped bit may have made another kind or version of what was written.
    stored = metadata.pop(_DIGEST, None)
    if stored is None and version == FORMAT_VERSION:
        raise _damaged(path, kind, "its checksum is missing")
    if stored is not None and stored != _digest(metadata, tensors):
        raise _damaged(path, kind, "what it holds does not match its checksum")
    if found_kind != kind:
        raise CheckpointError(
            "this is not the kind of checkpoint asked for",
            where=path,
            found=found_kind or "a safetensors file of another program",
            expected=kind,
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            "the checkpoint was written by a newer version",
            where=path,
            found=f"format {version}",
            expected=f"format {FORMAT_VERSION} or older",
            fix="update istd",
        )
    try:
        state = _unflatten(tree, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, kind, f"its description does not fit its tensors ({error})") from error
    if not isinstance(state, dict):
        raise _damaged(path, kind, "it holds no state")
    return state


def read_kind(path: str | Path) -> str | None:
    """What a file of `save_state` is; None of anything else. The tensors are not read."""
    try:
        with safe_open(str(path), framework="pt") as stream:
            return (stream.metadata() or {}).get("kind")
    except (SafetensorError, OSError):
        return None


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of everything in a file: its metadata, and name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(path: Path, kind: str, found: object) -> DamagedStateError:
    return DamagedStateError(
        "the checkpoint is damaged or is not one of ours",
        where=path,
        found=found,
        expected=f"a {kind} checkpoint written by istd",
        fix="use another checkpoint of the run folder, or train again",
    )


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # Safetensors refuses views that share memory (tied weights); every entry gets its own.
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _flatten(item, f"{path}/{key}", tensors) for key, item in value.items()}
        # Optimiser states are keyed by integers, which JSON would turn into strings.
        return {_PAIRS: [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_flatten(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_TUPLE: [_flatten(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state cannot hold {type(value).__name__} (at {path or 'the top'})")


def _unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if _TENSOR in tree:
            return tensors[tree[_TENSOR]]
        if _TUPLE in tree:
            return tuple(_unflatten(item, tensors) for item in tree[_TUPLE])
        if _PAIRS in tree:
            return {key: _unflatten(item, tensors) for key, item in tree[_PAIRS]}
        return {key: _unflatten(item, tensors) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_unflatten(item, tensors) for item in tree]
    return tree
