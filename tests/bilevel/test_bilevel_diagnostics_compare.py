"""`compare`: its figures against ones computed here, its memory against known sizes, its table and plot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bilevel_zoo import Ridge, cosine, relative_error, reweighted_mlp
from torch import nn

import bilevel
from bilevel.diagnostics._memory import LiveTensors
from bilevel.errors import BatchError, BilevelError, MissingDependencyError, OptionError


def test_figures_are_those_of_the_methods() -> None:
    case = reweighted_mlp(steps=4)
    optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.02)
    case.train_live(optimizer, 2)
    solver = case.solver(optimizer, bilevel.GaussNewton())
    before = {name: value.clone() for name, value in case.inner.state_dict().items()}
    methods = {
        "exact": bilevel.Unrolled(4),
        "graph": bilevel.Unrolled(4, mode="graph"),
        "truncated": bilevel.Unrolled(4, truncate=1),
        "rank one": bilevel.GaussNewton(),
    }
    pairs = [(bilevel.Batches(case.train), case.val), (bilevel.Batches(case.train[::-1]), case.val)]
    found = bilevel.compare(solver, methods, reference="exact", batches=pairs, repeats=2)
    assert [result.name for result in found.results] == list(methods)
    assert found["exact"].relative_error == 0
    assert found["graph"].relative_error < 1e-9
    exact = case.solver(optimizer, methods["exact"]).hypergradient(*pairs[1])
    rough = case.solver(optimizer, methods["truncated"]).hypergradient(*pairs[1])
    second = found["truncated"].estimates[1]
    assert second.relative_error == pytest.approx(relative_error(rough, exact))
    assert second.cosine == pytest.approx(cosine(rough, exact))
    assert second.norm == pytest.approx(float(rough.norm()))
    for result in found.results:
        assert len(result.estimates) == 2
        assert all(one.seconds > 0 and one.peak_bytes > 0 for one in result.estimates)
    assert solver.method == bilevel.GaussNewton()
    assert all(torch.equal(value, before[name]) for name, value in case.inner.state_dict().items())


def test_linear_solves_are_reported_and_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    ridge = Ridge()
    case = ridge.case()
    methods = {
        "cg 20": bilevel.Implicit(bilevel.ConjugateGradient(20, tolerance=1e-12)),
        "cg 2": bilevel.Implicit(bilevel.ConjugateGradient(2, tolerance=0.0)),
        "neumann": bilevel.Implicit(bilevel.Neumann(step_size=50.0, max_iterations=30)),
    }
    found = bilevel.compare(
        case.problem(), methods, reference="cg 20", batches=[((ridge.x, ridge.y), (ridge.x_val, ridge.y_val))]
    )
    assert found["cg 20"].statuses == ("converged",)
    residual = found["cg 2"].residual
    assert residual is not None
    assert residual > 1e-3
    assert found["cg 2"].relative_error > 1e-3
    assert "diverged" in found["neumann"].statuses or "not finite" in found["neumann"].statuses
    gradient = found["cg 2"].estimates[0].inner_gradient_norm
    assert gradient is not None
    assert gradient < 1e-12
    assert not [one for one in recwarn if issubclass(one.category, bilevel.LinearSolveWarning)]
    text = " ".join(str(found).split())
    assert "converged" in text
    assert "iteration limit" in text
    assert "live CPU tensors" in text


def test_live_tensors_counts_each_storage_once_until_it_is_freed() -> None:
    old = torch.zeros(1000)
    with LiveTensors() as live:
        a = old + 1
        a.view(10, 100).t()
        old.add_(1)
        assert live.now == live.peak == 4000
        b = a * 2
        del a
        assert (live.now, live.peak) == (4000, 8000)
        b.sum()
        assert live.peak == 8000
        del b
        assert live.now == 0


def test_live_tensors_sees_what_a_graph_keeps() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with LiveTensors() as live:
        y = x.exp().exp().exp()
        assert live.now == 12000
        y.detach_()
        assert live.now == 4000


def test_live_bytes_are_counted_and_released() -> None:
    with LiveTensors() as mode:
        a = torch.zeros(1000)  # 4000 bytes
        b = a.view(10, 100).t()  # a view costs nothing
        b.add_(1)  # nor does writing in place
        del a, b
        c = torch.zeros(1500)
        d = c + 1
        del c
        e = d.double()[:10]  # 12000 bytes, kept by the view
        del d
    assert mode.peak == 6000 + 12000
    del e
    with LiveTensors() as mode:
        f = torch.zeros(100)
        f.resize_(1000)
        del f
        torch.zeros(900)  # less than what was just freed
    assert mode.peak == 4000
    known = torch.zeros(500)
    with LiveTensors([known]) as mode:
        known.t()
        known.mul_(2)
    assert mode.peak == 0


def test_live_bytes_see_the_graph_that_autograd_keeps() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with LiveTensors([x]) as mode:
        y = x
        for _ in range(10):
            y = y.tanh()  # each keeps its result
        y.sum().backward()
    assert 10 * 4000 <= mode.peak < 13 * 4000
    case = reweighted_mlp(steps=1)
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), bilevel.GaussNewton())
    found = bilevel.compare(
        solver,
        {str(t): bilevel.Unrolled(t, mode="graph") for t in (2, 12)},
        reference=bilevel.Unrolled(2),
        batches=[(case.train[0], case.val)],
    )
    assert found["12"].peak_bytes > 3 * found["2"].peak_bytes


class Hard(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.hardsigmoid(self.inner(x))


def test_a_method_that_fails_is_a_row_that_says_so(tmp_path: Path) -> None:
    case = reweighted_mlp(steps=1)
    case.inner = Hard(case.inner)
    problem = case.problem()
    methods = [bilevel.Implicit(bilevel.ConjugateGradient()), bilevel.GaussNewton()]
    found = bilevel.compare(
        problem, methods, reference=bilevel.GaussNewton(), batches=[(case.train[0], case.val)]
    )
    assert found.results[0].failure is not None
    assert "DoubleBackwardError" in found.results[0].failure
    assert found.results[1].relative_error == 0
    assert "DoubleBackwardError" in str(found)
    with pytest.raises(BilevelError):
        bilevel.compare(problem, methods, reference=methods[0], batches=[(case.train[0], case.val)])
    figure = found.plot(tmp_path / "plot.png", cost="peak_bytes")
    assert (tmp_path / "plot.png").stat().st_size > 5000
    assert len(figure.axes[0].lines) == 1


class NoForwardMode(torch.autograd.Function):
    """x², whose derivative has no forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = NoForwardMode.apply(x)
        return answer


def test_what_a_method_did_otherwise_than_asked_is_said() -> None:
    case = reweighted_mlp(steps=2)
    case.inner = nn.Sequential(case.inner, Square())
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), bilevel.GaussNewton())
    method = bilevel.Unrolled(2, products="auto")
    pair = (bilevel.Batches(case.train), case.val)
    (note,) = solver_notes = case.solver(solver.inner_optimizer, method).hypergradient(*pair).notes
    assert "double backward" in note
    found = bilevel.compare(solver, {"auto": method}, reference=bilevel.Unrolled(2), batches=[pair, pair])
    assert found["auto"].notes == solver_notes
    assert [one.notes for one in found["auto"].estimates] == [solver_notes] * 2
    assert "double backward" in " ".join(str(found).split())
    report = bilevel.check(solver, method, *pair, directions=0)
    assert report.notes == solver_notes
    assert note in str(report)


class Reordered(bilevel.HypergradientMethod):
    """A method of a user's own, which does not keep to the order of the parameters."""

    def __call__(self, point: bilevel.Point) -> bilevel.Hypergradient:
        found = bilevel.GaussNewton()(point)
        return bilevel.Hypergradient(
            dict(reversed(found.items())), outer_loss=found.outer_loss, inner_losses=found.inner_losses
        )


class Greedy(bilevel.HypergradientMethod):
    """One that needs more memory than a device has."""

    def __call__(self, point: bilevel.Point) -> bilevel.Hypergradient:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB")


def test_methods_of_one_s_own_are_read_by_name_and_one_without_memory_is_a_row() -> None:
    moved = []
    for method in (bilevel.GaussNewton(), Reordered()):
        case = reweighted_mlp(steps=1)
        case.outer = nn.ModuleList([case.outer, bilevel.ClusterWeights(3).double()])

        def loss(model: nn.Module, outer: Any, batch: Any) -> torch.Tensor:
            x, y, cluster = batch
            own = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
            return (outer[0](cluster) * own + outer[1](cluster) * own.square()).mean()

        case.inner_loss = loss
        solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), method)
        pair = (case.train[0], case.val)
        found = bilevel.compare(
            solver, {"own": method, "greedy": Greedy()}, reference=bilevel.GaussNewton(), batches=[pair]
        )
        assert found["own"].relative_error == 0
        assert "2 TiB" in str(found["greedy"].failure)
        solver.step(*pair)
        moved.append(torch.cat([one.detach() for one in case.outer.parameters()]))
    assert torch.equal(*moved)
    assert not torch.equal(moved[0][:3] - moved[0][:3].mean(), moved[0][3:])


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bilevel.Comparison("exact", (), "live CPU tensors")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        found.plot()


def test_bad_arguments_are_refused() -> None:
    case = reweighted_mlp(steps=1)
    problem, method = case.problem(), bilevel.GaussNewton()
    pair = (case.train[0], case.val)
    with pytest.raises(OptionError, match="methods"):
        bilevel.compare(problem, [], reference=method, batches=[pair])
    with pytest.raises(OptionError, match=r"methods\['b'\](.|\n)*float"):
        bilevel.compare(problem, {"a": method, "b": 0.1}, reference="a", batches=[pair])  # type: ignore[dict-item]
    with pytest.raises(OptionError, match="reference"):
        bilevel.compare(problem, {"a": method}, reference="b", batches=[pair])
    with pytest.raises(OptionError, match="repeats"):
        bilevel.compare(problem, [method], reference=method, batches=[pair], repeats=0)
    with pytest.raises(BatchError, match="pairs"):
        bilevel.compare(problem, [method], reference=method, batches=[])
    with pytest.raises(BatchError, match="pairs"):
        bilevel.compare(problem, [method], reference=method, batches=[torch.zeros(3)])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="neither"):
        bilevel.compare(case.inner, [method], reference=method, batches=[pair])  # type: ignore[arg-type]
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), method)
    with pytest.raises(OptionError, match="optimizer"):
        bilevel.compare(solver, [method], reference=method, batches=[pair], optimizer=solver.inner_optimizer)
