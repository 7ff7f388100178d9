"""Re-weighting modules: the paper's formula, the reference's figures, gradients, bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bilevel import ClusterWeights, SampleWeights, SoftLabels
from bilevel.errors import BatchError, OptionError


def test_cluster_weights_agree_with_the_reference(golden: Callable[[str], dict[str, Any]]) -> None:
    data = golden("03_cluster_weights")
    clusters = torch.from_numpy(data["cluster_ids_of_im"])
    for case in range(5):
        alpha = torch.from_numpy(data[f"alpha_{case}"])
        weights = ClusterWeights(len(alpha), normalize="detached_mean")
        with torch.no_grad():
            weights.logits.copy_(alpha)
        found = weights(clusters[torch.from_numpy(data[f"ids_{case}"])])
        torch.testing.assert_close(found.detach(), torch.from_numpy(data[f"w_{case}"]), rtol=1e-6, atol=1e-6)
        (found * torch.from_numpy(data[f"c_{case}"])).sum().backward()
        expected = torch.from_numpy(data[f"dalpha_sum_wc_{case}"])
        assert weights.logits.grad is not None
        torch.testing.assert_close(weights.logits.grad, expected, rtol=1e-5, atol=1e-6)


def test_cluster_weights_are_their_formula() -> None:
    weights = ClusterWeights(3).double()
    with torch.no_grad():
        weights.logits.copy_(torch.tensor([2.0, -1.0, 0.5]))
    cluster = torch.tensor([0, 0, 1, 2, 1])
    raw = [2.0, 2.0, -1.0, 0.5, -1.0]
    centred = [value - sum(raw) / 5 for value in raw]
    bounded = [math.exp(math.log(2) * math.tanh(value / math.log(2))) for value in centred]
    expected = torch.tensor([value / (sum(bounded) / 5) for value in bounded], dtype=torch.float64)
    torch.testing.assert_close(weights(cluster).detach(), expected)
    assert weights(cluster).sum().item() == pytest.approx(5)


def test_default_gradient_knows_that_a_common_scale_changes_nothing() -> None:
    cluster = torch.tensor([0, 1, 2, 0])
    slopes = {}
    for normalize in ("mean", "detached_mean"):
        weights = ClusterWeights(3, normalize=normalize).double()  # type: ignore[arg-type]
        with torch.no_grad():
            weights.logits.copy_(torch.tensor([1.0, -0.5, 0.1]))
        weights(cluster).sum().backward()
        assert weights.logits.grad is not None
        slopes[normalize] = float(weights.logits.grad.abs().max())
    # The sum of normalised weights is constant, so its true derivative is 0.
    assert slopes["mean"] < 1e-12
    assert slopes["detached_mean"] > 1e-2


@pytest.mark.parametrize("parameterization", ["bounded_exp", "softmax", "sigmoid", "softplus"])
@pytest.mark.parametrize("normalize", ["mean", "detached_mean", "none"])
def test_parameterisations(parameterization: Any, normalize: Any) -> None:
    weights = SampleWeights(4, parameterization=parameterization, normalize=normalize).double()
    with torch.no_grad():
        weights.logits.copy_(torch.tensor([-40.0, -1.0, 0.5, 30.0]))
    index = torch.tensor([3, 1, 2, 1])
    found = weights(index)
    assert found.shape == (4,)
    assert bool((found > 0).all())
    assert torch.equal(found[1], found[3])
    assert found[1] < found[2] < found[0]  # monotone in the logit
    raw = weights.logits.detach()[index]
    positive = {
        "bounded_exp": torch.exp(math.log(2) * torch.tanh((raw - raw.mean()) / math.log(2))),
        "softmax": torch.exp(raw - raw.max()),  # a softmax but for its scale
        "sigmoid": 1 / (1 + torch.exp(-raw)),
        "softplus": torch.log1p(torch.exp(raw)),
    }[parameterization]
    scale = {"mean": positive.mean(), "detached_mean": positive.mean() + 1e-6, "none": 1.0}[normalize]
    torch.testing.assert_close(found.detach(), positive / scale)

    def value(logits: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(weights, {"logits": logits}, (index,))
        return result

    moderate = torch.tensor([0.3, -1.0, 0.5, 1.5], dtype=torch.float64, requires_grad=True)
    if normalize == "detached_mean":  # by definition not the derivative of the values; see the next test
        return
    assert torch.autograd.gradcheck(value, moderate)
    assert torch.autograd.gradgradcheck(value, moderate)


@pytest.mark.parametrize("parameterization", ["softmax", "sigmoid", "softplus"])
def test_a_detached_mean_is_a_constant_in_the_derivative(parameterization: Any) -> None:
    """∂wᵢ/∂rᵢ = f′(rᵢ) / (mean + 1e-6), and nothing across: of a softmax too, whose f is the exponential."""
    weights = SampleWeights(4, parameterization=parameterization, normalize="detached_mean").double()
    raw = torch.tensor([0.3, -1.0, 0.5, 1.5], dtype=torch.float64)

    def value(logits: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(weights, {"logits": logits}, (torch.arange(4),))
        return result

    found = torch.autograd.functional.jacobian(value, raw)
    function, slope = {
        "softmax": (torch.exp(raw - 1.5), torch.exp(raw - 1.5)),
        "sigmoid": (raw.sigmoid(), raw.sigmoid() * (1 - raw.sigmoid())),
        "softplus": (torch.log1p(raw.exp()), raw.sigmoid()),
    }[parameterization]
    torch.testing.assert_close(found, torch.diag(slope / (function.mean() + 1e-6)), rtol=1e-12, atol=1e-14)


def test_extreme_logits_stay_finite() -> None:
    for parameterization in ("bounded_exp", "softmax", "sigmoid", "softplus"):
        weights = ClusterWeights(2, parameterization=parameterization)  # type: ignore[arg-type]
        with torch.no_grad():
            weights.logits.copy_(torch.tensor([-500.0, 500.0]))
        found = weights(torch.tensor([0, 1]))
        found.square().sum().backward()
        assert torch.isfinite(found).all()
        assert torch.isfinite(weights.logits.grad).all()


def test_defaults_start_equal_and_say_what_they_are() -> None:
    clusters, samples = ClusterWeights(3), SampleWeights(5)
    assert torch.equal(clusters(torch.tensor([0, 2, 2])), torch.ones(3))
    assert torch.equal(samples(torch.tensor([4, 0])), torch.full((2,), 0.5))
    assert repr(clusters) == "ClusterWeights(3, parameterization='bounded_exp', normalize='mean')"
    assert list(samples.state_dict()) == ["logits"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClusterWeights(0),
        lambda: ClusterWeights(3, parameterization="exp"),  # type: ignore[arg-type]
        lambda: SampleWeights(3, normalize="sum"),  # type: ignore[arg-type]
    ],
)
def test_bad_options_are_refused(make: Any) -> None:
    with pytest.raises(OptionError, match="Weights"):
        make()


@pytest.mark.parametrize(
    "index", [torch.zeros(3), torch.zeros((2, 2), dtype=torch.long), torch.ones(3).bool()]
)
def test_bad_indices_are_refused(index: torch.Tensor) -> None:
    with pytest.raises(BatchError, match="integers of shape"):
        ClusterWeights(3)(index)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_small_integers_are_positions_and_no_mask(dtype: torch.dtype) -> None:
    weights, labels = SampleWeights(3).double(), SoftLabels(torch.tensor([2, 0, 1], dtype=dtype), 3)
    with torch.no_grad():
        weights.logits.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    index = torch.tensor([1, 0, 1])
    found = weights(index.to(dtype))
    torch.testing.assert_close(found, torch.sigmoid(torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)))
    assert labels.hard().tolist() == [2, 0, 1]
    assert labels(index.to(dtype)).argmax(1).tolist() == [0, 2, 0]


@pytest.mark.parametrize("index", [[0, -1], [3, 1]])
def test_indices_outside_of_the_table_are_refused(index: list[int]) -> None:
    for module in (ClusterWeights(3), SoftLabels(torch.tensor([0, 1, 0]), 2)):
        with pytest.raises(BatchError, match=r"outside of the table(.|\n)*0 to 2"):
            module(torch.tensor(index))
    assert len(ClusterWeights(3)(torch.tensor([], dtype=torch.long))) == 0
