"""Every example runs at reduced size, writes its picture, and shows what it claims."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.slow
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


def test_ridge_hyperparameters(tmp_path: Path) -> None:
    result = example("ridge_hyperparameters").main(["--quick", "--out", str(tmp_path / "ridge.png")])
    assert result.learned["val"] < 0.99 * result.grid["val"]
    assert result.learned["test"] < 1
    assert float(result.penalties.max() / result.penalties.min()) > 2
    assert is_picture(tmp_path / "ridge.png")


def test_unrolled_vs_implicit(tmp_path: Path) -> None:
    found = example("unrolled_vs_implicit").main(["--quick", "--out", str(tmp_path / "both.png")])
    for family in ("Unrolled", "CG", "Neumann"):
        errors = [found[f"{family}({budget})"].relative_error for budget in (2, 5, 10)]
        assert errors[0] > errors[1] > errors[2], (family, errors)
    same = found["Neumann(10)"].relative_error
    assert abs(found["Unrolled(10)"].relative_error - same) < 1e-6 * same
    assert found["CG(10)"].relative_error < found["Unrolled(10)"].relative_error
    assert is_picture(tmp_path / "both.png")


def test_learned_learning_rate(tmp_path: Path) -> None:
    result = example("learned_learning_rate").main(["--quick", "--out", str(tmp_path / "rate.png")])
    assert result.rates[-1] > 10 * result.rates[0]
    assert result.curves["learned"][-1] < 0.8 * result.curves["fixed 0.003"][-1]
    assert is_picture(tmp_path / "rate.png")


def test_data_hypercleaning(tmp_path: Path) -> None:
    result = example("data_hypercleaning").main(["--quick", "--out", str(tmp_path / "cleaning.png")])
    assert result.auc > 0.8
    assert result.accuracy["kept samples"] > result.accuracy["all labels as given"] + 2
    assert is_picture(tmp_path / "cleaning.png")


def test_which_method(tmp_path: Path) -> None:
    result = example("which_method").main(["--quick", "--out", str(tmp_path / "which.png")])
    steps, minimum = result.steps.found, result.minimum.found
    for exact in ("Unrolled(20)", "Unrolled(20, trajectory='checkpoints')", "ForwardMode(20)"):
        assert steps[exact].relative_error < 1e-12
    truncated = [steps[f"Unrolled(20, truncate=k) k={k}"].relative_error for k in (1, 2, 5, 10, 15)]
    assert truncated == sorted(truncated, reverse=True)
    for family in (
        "ConjugateGradient(k)",
        "FixedPoint(momentum, k)",
        "Neumann(k)",
        "Unrolled(k)",
        "Penalty(k)",
    ):
        errors = [minimum[f"{family} k={k}"].relative_error for k in (2, 5, 10)]
        assert errors == sorted(errors, reverse=True), family
    assert result.minimum.costs["Neumann(k) k=10"] < 0.6 * result.minimum.costs["Unrolled(k) k=10"]
    assert is_picture(tmp_path / "which.png")
