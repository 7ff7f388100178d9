"""The rows: bilevel's methods and, from `peers`, the others', behind one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

import bilevel

from .peers import PEERS, Answer, Method, Run
from .tasks import Task, UnavailableError

_FORWARD_LIMIT = 16  # outer coordinates up to which ForwardMode is asked


def _problem(task: Task) -> bilevel.Problem:
    return bilevel.Problem(task.inner_loss, task.outer_loss, task.inner, task.outer)


def _unrolling(make: Callable[[Task, int], Any]) -> Callable[[Task, int], Run]:
    """A method of bilevel that takes the inner steps itself."""

    def prepare(task: Task, steps: int) -> Run:
        method, problem, optimizer = make(task, steps), _problem(task), task.optimizer()
        train = bilevel.Batches(task.train)

        def run() -> Answer:
            found = bilevel.hypergradient(problem, method, train, task.val, optimizer=optimizer)
            return Answer(tuple(found.values()))

        return run

    return prepare


def _one_point(make: Callable[[], Any]) -> Callable[[Task, int], Run]:
    """A method that looks at one point: the T inner steps are ordinary training, and count."""

    def prepare(task: Task, steps: int) -> Run:
        method, problem = make(), _problem(task)
        task.save()
        parameters = list(task.inner.parameters())

        def run() -> Answer:
            optimizer = task.optimizer()
            try:
                for batch in task.train:
                    loss = task.inner_loss(task.inner, task.outer, batch)
                    for parameter, grad in zip(
                        parameters, torch.autograd.grad(loss, parameters), strict=True
                    ):
                        parameter.grad = grad
                    optimizer.step()
                    optimizer.zero_grad()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", bilevel.LinearSolveWarning)
                    found = bilevel.hypergradient(problem, method, task.train[-1], task.val)
            finally:
                task.restore()
            note = "; ".join(
                f"{report.status} after {report.iterations} products, residual {report.residual:.1e}"
                for report in found.linear_solves
            )
            return Answer(tuple(found.values()), note)

        return run

    return prepare


def _unrolled(**options: Any) -> Callable[[Task, int], Any]:
    def make(task: Task, steps: int) -> Any:
        return bilevel.Unrolled(steps, **options)

    return make


def _forward_mode(walked_back: int | None) -> Callable[[Task, int], Any]:
    def make(task: Task, steps: int) -> Any:
        count = sum(parameter.numel() for parameter in task.outer.parameters())
        if count > _FORWARD_LIMIT:
            raise UnavailableError(
                f"for few outer parameters; this problem has {count} (limit {_FORWARD_LIMIT})"
            )
        return bilevel.ForwardMode(steps, walked_back=walked_back)

    return make


_ADJOINT = "bilevel Unrolled adjoint"
_BILEVEL = (
    Method(_ADJOINT, "bilevel", _unrolling(_unrolled(mode="adjoint")), exact=True),
    Method(
        "bilevel Unrolled forward-over-reverse",
        "bilevel",
        _unrolling(_unrolled(products="forward-over-reverse")),
        exact=True,
    ),
    Method(
        "bilevel Unrolled √T checkpoints",
        "bilevel",
        _unrolling(_unrolled(trajectory="checkpoints")),
        exact=True,
    ),
    Method("bilevel Unrolled graph", "bilevel", _unrolling(_unrolled(mode="graph")), exact=True, graph=True),
    Method("bilevel ForwardMode", "bilevel", _unrolling(_forward_mode(None)), exact=True),
    Method("bilevel ForwardMode, tangents alone", "bilevel", _unrolling(_forward_mode(0)), exact=True),
    Method("bilevel GaussNewton", "bilevel", _one_point(lambda: bilevel.GaussNewton()), exact=False),
    Method(
        "bilevel Implicit(CG)",
        "bilevel",
        _one_point(lambda: bilevel.Implicit(bilevel.ConjugateGradient())),
        exact=False,
    ),
)

METHODS: dict[str, Method] = {one.name: one for one in (*PEERS, *_BILEVEL)}
"""In the order of the table; the first exact one that succeeds is what the others are checked against."""
