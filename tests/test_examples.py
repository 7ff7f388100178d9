"""Every example runs at reduced size, writes its picture, and shows what it claims."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_noisy_digits(tmp_path: Path) -> None:
    module = example("noisy_digits")
    found = module.main(["--quick", "--out", str(tmp_path / "digits.png")])
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    simple = max(mean["plain training"], mean["50 clean samples only"])
    best = max(mean[name] for name in ("MetaWeightNet", "SampleWeights", "ClusterWeights"))
    assert best >= 84
    assert best > simple + 1
    assert mean["online re-weighting"] > 84
    assert is_picture(tmp_path / "digits.png")
