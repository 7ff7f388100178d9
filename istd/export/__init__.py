"""Trained detectors as ONNX and TorchScript files, of any image size and batch, checked against PyTorch."""

from __future__ import annotations

from ._deployed import Deployed, ExportOutput, describe
from .onnx_file import Exporter, export_onnx
from .parity import CHECK_SHAPES, Parity, check_onnx, check_torchscript
from .torchscript_file import export_torchscript

__all__ = [
    "CHECK_SHAPES",
    "Deployed",
    "ExportOutput",
    "Exporter",
    "Parity",
    "check_onnx",
    "check_torchscript",
    "describe",
    "export_onnx",
    "export_torchscript",
]
