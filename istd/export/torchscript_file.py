"""TorchScript files by tracing, with batch, height and width left open."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from .._files import write_bytes
from ..errors import ModelError
from ._deployed import Deployed

EXTRA_FILE = "istd.json"


def export_torchscript(network: Deployed, path: str | Path, about: dict[str, Any]) -> None:
    """Write a TorchScript file, whole or not at all; `torch.jit.load` needs neither this package nor Python.

    Args:
        network: what to write.
        path: the file.
        about: goes into the file as `istd.json` (`istd.export.describe`); `torch.jit.load` hands it out by
            `_extra_files={"istd.json": ""}`.

    Raises:
        ModelError: torch cannot trace this network.
        WriteError: the disk refused.
    """
    example = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns about every number it takes from a shape; the check tells whether it matters.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(network, example, check_trace=False)
    except Exception as error:
        raise ModelError(
            "the network cannot be traced",
            where=network.backbone.name,
            found=str(error).strip().splitlines()[0],
        ) from error
    # torch's writer of files knows no error of the disk
    write_bytes(path, traced.save_to_buffer(_extra_files={EXTRA_FILE: json.dumps(about)}))
