"""The same hypergradient by other libraries, each as its own documentation has it done."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .tasks import Task, UnavailableError


@dataclass(frozen=True)
class Answer:
    """The hypergradient, in the order of the outer module's parameters, and what there is to say about it."""

    values: tuple[Tensor, ...]
    note: str = ""


Run: TypeAlias = Callable[[], Answer]


@dataclass(frozen=True)
class Method:
    """A row.

    Attributes:
        name: as shown.
        library: whose it is; "" for the few lines of plain autograd that are no library.
        prepare: from a task and a number of steps to the function that is measured. It may raise
            UnavailableError.
        exact: whether the answer is the derivative of the unroll, to rounding.
        graph: whether it keeps one graph through all steps.
    """

    name: str
    library: str
    prepare: Callable[[Task, int], Run]
    exact: bool
    graph: bool = False

    @property
    def peer(self) -> bool:
        """Whether it is another library's."""
        return self.library not in ("", "bilevel")


class _Both(nn.Module):
    """Both modules under one name space, so that functional_call reaches them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.inner, self.outer = task.inner, task.outer

    def forward(self, loss: Callable[..., Tensor], batch: Any) -> Tensor:
        return loss(self.inner, self.outer, batch)


class _Functional:
    """The losses of a task as functions of a list of inner parameters; buffers are copies that evolve."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._both = _Both(task)
        self.outer = list(task.outer.parameters())
        self._names = [f"inner.{name}" for name, _ in task.inner.named_parameters()]
        self.start()

    def start(self) -> list[Tensor]:
        """The live inner parameters as fresh leaves; the buffers as they are."""
        self._buffers = {name: buffer.clone() for name, buffer in self._both.named_buffers()}
        return [p.detach().clone().requires_grad_() for p in self._task.inner.parameters()]

    def inner_loss(self, w: list[Tensor], batch: Any) -> Tensor:
        return self._call(w, self._task.inner_loss, batch)

    def outer_loss(self, w: list[Tensor]) -> Tensor:
        return self._call(w, self._task.outer_loss, self._task.val)

    def _call(self, w: list[Tensor], loss: Callable[..., Tensor], batch: Any) -> Tensor:
        given = {**dict(zip(self._names, w, strict=True)), **self._buffers}
        value: Tensor = torch.func.functional_call(self._both, given, (loss, batch))
        return value


def _plain(task: Task, steps: int) -> Run:
    """The unroll written out with torch.autograd and SGD with momentum by hand: the reference."""
    task_functions = _Functional(task)

    def run() -> Answer:
        w = task_functions.start()
        momentum: list[Tensor] = []
        for batch in task.train:
            grads = torch.autograd.grad(task_functions.inner_loss(w, batch), w, create_graph=True)
            pairs = zip(momentum, grads, strict=True)
            momentum = [task.momentum * old + grad for old, grad in pairs] if momentum else list(grads)
            w = [value - task.lr * step for value, step in zip(w, momentum, strict=True)]
        return Answer(torch.autograd.grad(task_functions.outer_loss(w), task_functions.outer))

    return run


def _higher(task: Task, steps: int) -> Run:
    try:
        import higher
    except ImportError as error:
        raise UnavailableError(f"higher is not installed ({error})") from error
    outer = list(task.outer.parameters())
    optimizer = task.optimizer()

    def run() -> Answer:
        with higher.innerloop_ctx(task.inner, optimizer) as (model, differentiable):
            for batch in task.train:
                differentiable.step(task.inner_loss(model, task.outer, batch))
            loss = task.outer_loss(model, task.outer, task.val)
            return Answer(torch.autograd.grad(loss, outer))

    return run


def _torchopt(task: Task, steps: int) -> Run:
    try:
        import torchopt
    except ImportError as error:
        raise UnavailableError(f"torchopt is not installed ({error})") from error
    functions = _Functional(task)

    def run() -> Answer:
        rule = torchopt.sgd(task.lr, momentum=task.momentum)
        w: Any = tuple(functions.start())
        state = rule.init(w)
        for batch in task.train:
            grads = torch.autograd.grad(functions.inner_loss(list(w), batch), w, create_graph=True)
            updates, state = rule.update(grads, state, params=w, inplace=False)
            w = torchopt.apply_updates(w, updates, inplace=False)
        return Answer(torch.autograd.grad(functions.outer_loss(list(w)), functions.outer))

    return run


def _hypertorch(task: Task, steps: int) -> Run:
    """hypertorch's `reverse`: rebuilds one step at a time, as bilevel's adjoint does."""
    try:
        hypergrad = importlib.import_module("hypergrad")
    except ImportError as error:
        raise UnavailableError(f"hypertorch is not installed ({error})") from error
    functions = _Functional(task)
    count = len(functions.start())

    def update_map(batch: Any) -> Callable[[Any, Any], list[Tensor]]:
        def update(both: Any, hparams: Any) -> list[Tensor]:
            w, momentum = list(both[:count]), both[count:]
            grads = torch.autograd.grad(functions.inner_loss(w, batch), w, create_graph=True)
            moved = [task.momentum * old + grad for old, grad in zip(momentum, grads, strict=True)]
            return [a - task.lr * b for a, b in zip(w, moved, strict=True)] + moved

        return update

    maps = [update_map(batch) for batch in task.train]

    def run() -> Answer:
        w = functions.start()
        history = [[*w, *(torch.zeros_like(one) for one in w)]]
        for one in maps:
            history.append([value.detach().requires_grad_() for value in one(history[-1], functions.outer)])
        found = hypergrad.reverse(
            history,
            functions.outer,
            maps,
            lambda both, hparams: functions.outer_loss(both[:count]),
            set_grad=False,
        )
        return Answer(tuple(found))

    return run


def _betty(task: Task, steps: int) -> Run:
    """Betty's default, the finite difference of DARTS, run through its Engine: T inner steps, one outer."""
    try:
        configs = importlib.import_module("betty.configs")
        engines = importlib.import_module("betty.engine")
        problems = importlib.import_module("betty.problems")
    except ImportError as error:
        raise UnavailableError(f"betty (betty-ml) is not installed ({error})") from error
    found: list[tuple[Tensor, ...]] = []

    def upper_step(problem: Any, batch: Any) -> Tensor:
        return task.outer_loss(problem.lower.module, problem.module, batch)

    def lower_step(problem: Any, batch: Any) -> Tensor:
        return task.inner_loss(problem.module, problem.upper.module, batch)

    def keep(problem: Any) -> None:
        found.append(tuple(parameter.grad.detach().clone() for parameter in problem.trainable_parameters()))

    base = (problems.ImplicitProblem,)
    upper_class = type("Upper", base, {"training_step": upper_step, "grad_callback": keep})
    lower_class = type("Lower", base, {"training_step": lower_step})
    task.save()

    def run() -> Answer:
        found.clear()
        upper = upper_class(
            name="upper",
            config=configs.Config(retain_graph=True),
            module=task.outer,
            optimizer=torch.optim.SGD(task.outer.parameters(), lr=1.0),
            train_data_loader=[task.val],
        )
        lower = lower_class(
            name="lower",
            config=configs.Config(type="darts", unroll_steps=steps),
            module=task.inner,
            optimizer=task.optimizer(),
            train_data_loader=task.train,
        )
        links = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        config = configs.EngineConfig(train_iters=steps, valid_step=steps + 1, strategy="cpu")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                engine = engines.Engine(config=config, problems=[upper, lower], dependencies=links)
                logging.getLogger("betty").handlers.clear()
                engine.run()
        finally:
            task.restore()
        return Answer(found[0], "finite difference at the last inner batch")

    return run


PEERS = (
    Method("plain autograd", "", _plain, exact=True, graph=True),
    Method("higher", "higher", _higher, exact=True, graph=True),
    Method("TorchOpt functional", "torchopt", _torchopt, exact=True, graph=True),
    Method("hypertorch reverse", "hypertorch", _hypertorch, exact=True),
    Method("Betty finite difference", "betty", _betty, exact=False),
)
