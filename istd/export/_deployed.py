"""What is exported: a backbone with its padding and normalisation, and what a user of the file must know."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .._provenance import package_version
from ..models import Backbone, final_logits

ExportOutput: TypeAlias = Literal["probability", "logits"]

INPUT = "image"
METADATA_KEY = "istd"
"""Key of the JSON text in an ONNX file's metadata; the TorchScript file has it as `istd.json`."""


class Deployed(nn.Module):
    """A backbone as one function of the image, without a decision that depends on the image's size.

    `Backbone.forward` pads only where it must, which an exporter would freeze into what the example needed.
    Here the border is always repeated by indexing, up to the stride, and cropped off again.

    Args:
        backbone: its fused copy is used (`Backbone.fuse`).
        output: "probability", or "logits" whose sigmoid that is.
    """

    def __init__(self, backbone: Backbone, output: ExportOutput = "probability") -> None:
        super().__init__()
        self.backbone = backbone.fuse().cpu().float().eval().to(memory_format=torch.contiguous_format)
        self.output = output
        self.requires_grad_(False)
        self.eval()  # all of it: an exporter puts back the mode that it finds at the top

    def forward(self, image: Tensor) -> Tensor:
        """float32 [B, 1, H, W] in [0, 1] → [B, 1, H, W], for any H and W."""
        logits = self.logits(image)
        return torch.sigmoid(logits) if self.output == "probability" else logits

    def logits(self, image: Tensor) -> Tensor:
        """As `forward`, always logits."""
        net = self.backbone
        height, width = image.shape[-2], image.shape[-1]
        x = (image - net.mean) / net.std
        x = x.index_select(2, _padded(height, net.stride, image))
        x = x.index_select(3, _padded(width, net.stride, image))
        return final_logits(net.decode(net.encode(x, None)))[..., :height, :width]


def _padded(length: int, stride: int, like: Tensor) -> Tensor:
    """Indices 0, 1, …, length − 1, length − 1, … up to a multiple of the stride."""
    total = (length + stride - 1) // stride * stride
    return torch.arange(total, device=like.device).clamp(max=length - 1)


def describe(backbone: Backbone, header: dict[str, Any], threshold: float, output: str) -> dict[str, Any]:
    """What stands in the file beside the network, as plain values.

    Args:
        backbone: the exported network.
        header: of the detector (`Detector.header`).
        threshold: probability above which a pixel belongs to a target.
        output: "probability" or "logits".
    """
    return {
        "task": "infrared small target detection",
        "model": backbone.name,
        "method": header.get("method"),
        "classes": ["background", "target"],
        "input": {
            "name": INPUT,
            "type": "float32",
            "shape": ["batch", 1, "height", "width"],
            "range": [0.0, 1.0],
            "colour": "gray; 8-bit values divided by 255",
        },
        "normalisation": {
            "mean": backbone.mean.flatten().tolist(),
            "std": backbone.std.flatten().tolist(),
            "where": "inside the network",
        },
        "output": {"name": output, "type": "float32", "shape": ["batch", 1, "height", "width"]},
        "threshold": threshold,
        "stride": backbone.stride,
        "versions": {"bilevel-istd": package_version("bilevel-istd"), "torch": torch.__version__},
    }
