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
"""Largest difference of a logit, as a share of the range of the logits. Both run in single precision."""

_LEAST_SPREAD = 1e-4
_LOWEST, _HIGHEST = -60.0, 7.0
"""Beyond these logits, a probability in single precision does not tell them apart."""


@dataclass(frozen=True)
class Parity:
    """What a check found.

    Attributes:
        difference: the largest absolute difference of logits over all shapes.
        spread: of PyTorch's logits, the largest less the smallest.
        shapes: that were tried.
    """

    difference: float
    spread: float
    shapes: tuple[Shape, ...]

    @property
    def share(self) -> float:
        """The difference as a share of the spread."""
        return self.difference / self.spread

    @property
    def ok(self) -> bool:
        """Whether the share is within `TOLERANCE`."""
        return self.share <= TOLERANCE


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
        model, name = _answering_logits(network, path)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError("onnxruntime cannot load the file", where=path, found=error) from error
    return _compare(network, lambda x: session.run([name], {INPUT: x})[0], path, shapes, seed)


def _answering_logits(network: Deployed, path: str | Path) -> tuple[bytes, str]:
    """The model in the file, and the name of its logits as an output.

    onnxruntime's sigmoid is off by up to 1e-7, which is all there is of a small probability; so what goes
    into the sigmoid at the end is compared.
    """
    import onnx

    model = onnx.load(str(path))
    if network.output == "logits":
        return model.SerializeToString(), network.output
    last = next(node for node in model.graph.node if network.output in node.output)
    if last.op_type != "Sigmoid":
        raise ValueError(f"the graph ends with {last.op_type}, not with a sigmoid")
    model.graph.output.append(onnx.ValueInfoProto(name=last.input[0]))
    return model.SerializeToString(), last.input[0]


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
            answer = loaded(torch.from_numpy(x)).numpy()
        return answer if network.output == "logits" else _logits(answer)

    return _compare(network, run, path, shapes, seed)


def _compare(
    network: Deployed,
    run: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    path: str | Path,
    shapes: Sequence[Shape],
    seed: int,
) -> Parity:
    rng = np.random.default_rng(seed)
    difference, lowest, highest = 0.0, np.inf, -np.inf
    for shape in shapes:
        x = example_images(shape, rng)
        with torch.no_grad():
            expected = network.logits(torch.from_numpy(x)).numpy()
        try:
            found = run(x)
        except Exception as error:
            raise ModelError(
                "the exported file cannot take this size",
                where=path,
                found=f"{shape[0]} × 1 × {shape[1]} × {shape[2]}: {str(error).strip().splitlines()[-1]}",
            ) from error
        if found.shape != expected.shape:
            raise ModelError(
                "the exported file answers in another shape",
                where=path,
                found=found.shape,
                expected=expected.shape,
            )
        if network.output == "probability":
            found, expected = (np.clip(logits, _LOWEST, _HIGHEST) for logits in (found, expected))
        # Not `max`, which would overlook that something is not a number.
        difference = float(np.maximum(difference, np.abs(found - expected).max()))
        lowest = float(np.minimum(lowest, expected.min()))
        highest = float(np.maximum(highest, expected.max()))
    parity = Parity(difference, highest - lowest, tuple(shapes))
    if not parity.spread > _LEAST_SPREAD:
        raise ModelError(
            "the network answers the same to everything, so nothing can be compared",
            where=network.backbone.name,
            found=f"logits from {lowest:.6g} to {highest:.6g}",
            fix="train it longer; --no-check exports it as it is",
        )
    if not parity.ok:
        raise ModelError(
            "the exported file does not answer as PyTorch does",
            where=path,
            found=f"logits differ by up to {difference:.3g}, {parity.share:.2g} of their range",
            expected=f"at most {TOLERANCE:g} of their range",
            fix="try the other --format; please report it",
        )
    return parity


def example_images(shape: Shape, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise with bright spots, for a detector to find something: float32 [B, 1, H, W] in [0, 1]."""
    batch, height, width = shape
    images = rng.random((batch, 1, height, width), np.float32) * 0.5
    for image in images[:, 0]:
        for y, x in zip(rng.integers(0, height, 4), rng.integers(0, width, 4), strict=True):
            image[y : y + 3, x : x + 3] = 1.0
    return images


def _logits(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    p = probabilities.astype(np.float64)
    with np.errstate(divide="ignore"):
        return (np.log(p) - np.log1p(-p)).astype(np.float32)
