"""Whether an exported file answers as PyTorch does, at several sizes and batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ModelError
from ._deployed import INPUT, Deployed

Shape = tuple[int, int, int]

CHECK_SHAPES: tuple[Shape, ...] = ((1, 64, 64), (2, 50, 70), (1, 33, 47), (3, 96, 32), (1, 128, 160))
"""(batch, height, width): the example's neighbours, odd sizes that need padding, other batches."""

TOLERANCE = 1e-3
"""Largest difference of a probability, or of a logit relative to the largest.

Both run in single precision; with logits in the hundreds, probabilities differ by 3e-4 (measured)."""


@dataclass(frozen=True)
class Parity:
    """What a check found.

    Attributes:
        difference: the largest absolute difference over all shapes.
        scale: the largest absolute answer of PyTorch, at least 1.
        shapes: that were tried.
    """

    difference: float
    scale: float
    shapes: tuple[Shape, ...]

    @property
    def ok(self) -> bool:
        """Whether the difference is within `TOLERANCE` of the scale."""
        return self.difference <= TOLERANCE * self.scale


def check_onnx(
    network: Deployed, path: str | Path, shapes: Sequence[Shape] = CHECK_SHAPES, seed: int = 0
) -> Parity:
    """Compare an ONNX file, run by onnxruntime on the CPU, with PyTorch.

    Raises:
        ModelError: onnxruntime refuses the file or a shape, or the answers differ.
    """
    from .onnx_file import require_onnx

    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError("onnxruntime cannot load the file", where=path, found=error) from error
    return _compare(network, lambda x: session.run(None, {INPUT: x})[0], path, shapes, seed)


def check_torchscript(
    network: Deployed, path: str | Path, shapes: Sequence[Shape] = CHECK_SHAPES, seed: int = 0
) -> Parity:
    """Compare a TorchScript file with PyTorch.

    Raises:
        ModelError: the file cannot be loaded or refuses a shape, or the answers differ.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather we used torch.export
            loaded = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise ModelError("torch cannot load the file", where=path, found=error) from error

    def run(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            return loaded(torch.from_numpy(x)).numpy()

    return _compare(network, run, path, shapes, seed)


def _compare(
    network: Deployed,
    run: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    path: str | Path,
    shapes: Sequence[Shape],
    seed: int,
) -> Parity:
    rng = np.random.default_rng(seed)
    difference, scale = 0.0, 1.0
    for batch, height, width in shapes:
        x = rng.random((batch, 1, height, width), np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        try:
            found = run(x)
        except Exception as error:
            raise ModelError(
                "the exported file cannot take this size",
                where=path,
                found=f"{batch} × 1 × {height} × {width}: {str(error).strip().splitlines()[-1]}",
            ) from error
        if found.shape != expected.shape:
            raise ModelError(
                "the exported file answers in another shape",
                where=path,
                found=found.shape,
                expected=expected.shape,
            )
        difference = max(difference, float(np.abs(found - expected).max()))
        scale = max(scale, float(np.abs(expected).max()))
    parity = Parity(difference, scale, tuple(shapes))
    if not parity.ok:
        raise ModelError(
            "the exported file does not answer as PyTorch does",
            where=path,
            found=f"differences up to {difference:.3g} in answers up to {scale:.3g}",
            expected=f"at most {TOLERANCE * scale:.3g}",
            fix="try the other --format; please report it",
        )
    return parity
