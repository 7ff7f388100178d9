"""The alternating loop: hypergradient → outer update → inner update."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ._checks import as_callbacks, as_device, check_options
from ._info import Seconds, StepInfo
from ._level import Level
from ._live_gradient import live_gradient
from ._restart import RestartPoint
from ._state import load_solver_state, solver_state
from ._types import Loss, MaybeTensors, NamedTensors, Tensors
from .batches import Batches
from .callbacks import Callback
from .clipping import Clip
from .distributed import ProcessGroup, find_group, make_problem
from .errors import IndependentLossError, NonFiniteError, NonFiniteLossError
from .hypergradients import Hypergradient, HypergradientMethod
from .hypergradients import hypergradient as evaluate
from .problem import fork


@dataclass(frozen=True)
class _Judged:
    """A hypergradient before the outer update, why it is to be skipped, and the seconds it took."""

    result: Hypergradient
    skipped: tuple[str, ...]
    seconds: float


class Solver:
    """Trains `inner` on the inner loss while it learns `outer` from the outer loss.

    The losses are ordinary functions of ordinary modules, `loss(inner, outer, batch)` → scalar tensor; see
    `Problem` for which parameters count. The modules stay the user's: live training runs on them as always,
    while hypergradients are computed on copies.

    Args:
        inner_loss: what the inner parameters are trained on.
        outer_loss: what the outer parameters are judged by.
        inner: module with the inner parameters.
        outer: module with the outer parameters.
        inner_optimizer: a torch.optim optimiser of the inner parameters, a torchopt gradient transformation,
            or an `UpdateRule`. Methods that unroll need one that `from_torch` takes.
        outer_optimizer: the same for the outer parameters; here every torch.optim class with a plain `step()`
            will do.
        hypergradient: how to differentiate, such as `Unrolled(steps=5)`, `Implicit(ConjugateGradient())` or
            `GaussNewton()`.
        inner_steps: live inner updates in one `step`, ≥ 1.
        on_nonfinite: what to do when a loss, a hypergradient or an inner gradient is not finite: `"raise"` a
            named error, or `"skip"` the update and count it. It never reaches the parameters, save by
            `inner_update`, which does not look.
        unroll: the order of one `step`. `"look-ahead"`: the unroll is virtual; the outer parameters move
            first, then the live inner steps are taken with the new ones. `"committed"`: the live inner steps
            are the unrolled ones, taken with the old outer parameters, which move afterwards; a method that
            looks at one point only then looks at where the inner steps ended.
        inner_start: `"warm"`, or `"restart"` to put the inner module, its optimiser and its scheduler back
            to where they were when the solver was built, at the beginning of each `step`. What `outer` holds
            too belongs to it and stays as it is.
        inner_clip: `ClipNorm` or `ClipValue` for the inner gradient before its optimiser sees it; part of the
            unrolled steps. Reported norms are those before clipping.
        outer_clip: the same for the hypergradient.
        inner_scheduler: a scheduler of the inner torch.optim optimiser, stepped after each update. Within one
            unroll the learning rate stays the present one; so the steps of a committed one are taken first,
            and the scheduler's after them.
        outer_scheduler: a scheduler of the outer torch.optim optimiser, stepped after each update.
        inner_micro_batch: cut each training batch into micro-batches of at most so many samples whose losses
            are averaged, weighted by size: the same gradient for a loss that is a mean over samples (not
            where samples see each other, as in BatchNorm or weights normalised over the batch). The graph of
            one micro-batch is kept at a time, save for the inner loss under `Implicit`, `Identity`,
            `SAMA("exact")` and `Unrolled(mode="graph")`, which keep those of all.
        outer_micro_batch: the same for each batch of the outer loss.
        autocast: run the losses under autocast in this type; None leaves it to the caller. There is no loss
            scaling, so prefer bfloat16.
        device: move the tensors of every batch there; None leaves batches alone.
        process_group: average losses, gradients and hypergradients over these processes: `"auto"` is the
            default group if torch.distributed was initialised before; None is this process alone. All
            processes then start from the parameters of the first. Batches are each process's own part; equal
            parts of a mean loss give what one process computes on the joined batch. Weights normalised over
            the batch, as `ClusterWeights` and `ClassWeights` do by default, are so over the process's part;
            `normalize="none"` with a sigmoid or softplus has no such part.
        callbacks: called as `callback(solver, info)` after each `step`, such as `bilevel.logging.LogTo`.

    Raises:
        OptionError: an argument makes no sense.
        ParameterError: a module has nothing to learn.
        OptimizerError: an optimiser does not hold its level's parameters, or the method cannot unroll it.
    """

    def __init__(
        self,
        inner_loss: Loss,
        outer_loss: Loss,
        *,
        inner: nn.Module,
        outer: nn.Module,
        inner_optimizer: object,
        outer_optimizer: object,
        hypergradient: HypergradientMethod,
        inner_steps: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        unroll: Literal["look-ahead", "committed"] = "look-ahead",
        inner_start: Literal["warm", "restart"] = "warm",
        inner_clip: Clip | None = None,
        outer_clip: Clip | None = None,
        inner_scheduler: LRScheduler | None = None,
        outer_scheduler: LRScheduler | None = None,
        inner_micro_batch: int | None = None,
        outer_micro_batch: int | None = None,
        autocast: torch.dtype | None = None,
        device: torch.device | str | None = None,
        process_group: ProcessGroup | Literal["auto"] | None = "auto",
        callbacks: Iterable[Callback] = (),
    ) -> None:
        check_options(
            hypergradient, inner_optimizer, inner_steps, on_nonfinite, unroll, inner_start, autocast
        )
        self._group = find_group(process_group)
        self.problem = make_problem(inner_loss, outer_loss, inner, outer, self._group)
        self.method = hypergradient
        self.inner_steps = inner_steps
        self.on_nonfinite = on_nonfinite
        self.unroll = unroll
        self.inner_optimizer = inner_optimizer
        self.outer_optimizer = outer_optimizer
        self.callbacks: list[Callback] = as_callbacks(callbacks)
        self.counts = {"inner_steps": 0, "outer_steps": 0, "skipped": 0}
        self._autocast = autocast
        target = None if device is None else as_device(device)
        self._inner = Level(
            "inner",
            inner_optimizer,
            self.problem.inner_parameters(),
            clip=inner_clip,
            scheduler=inner_scheduler,
            micro_batch=inner_micro_batch,
            device=target,
        )
        self._outer = Level(
            "outer",
            outer_optimizer,
            self.problem.outer_parameters(),
            clip=outer_clip,
            scheduler=outer_scheduler,
            micro_batch=outer_micro_batch,
            device=target,
        )
        self._restart = RestartPoint(self.problem, self._inner) if inner_start == "restart" else None
        if hypergradient.uses_optimizer:
            # Refuse an optimiser that cannot be unrolled now, not in the first step.
            self._inner.rule(self.problem.inner_parameters())

    def hypergradient(self, train: Any, val: Any) -> Hypergradient:
        """dF/dλ at the live parameters; changes nothing (see `bilevel.hypergradient` for what that covers).

        Args:
            train: one batch, used at each unrolled step, or `Batches`, one a step.
            val: one batch of the outer loss, or `Batches`, over which it is averaged.

        Returns:
            A dict, outer parameter name → tensor, with the losses and reports of the way as attributes.

        Raises:
            NonFiniteError: something is not finite and `on_nonfinite` is `"raise"`.
            BilevelError: a loss, a batch or the optimiser cannot be used; the message says what to do.
        """
        result = self._evaluate(self._inner.batches(train), self._outer.batches(val))
        if self.on_nonfinite == "raise":
            result.check_finite(self.problem)
        return result

    def outer_step(self, train: Any, val: Any) -> StepInfo:
        """Compute the hypergradient and let the outer optimiser take one step along it."""
        return self._move_outer(self._judge(self._inner.batches(train), val))

    def inner_step(self, train: Any) -> StepInfo:
        """One ordinary training step of the live inner module on one batch (or the mean over `Batches`).

        If the loss or its gradient is not finite, buffers such as BatchNorm statistics are put back too.
        """
        return self._move_inner(self._inner.batches(train))

    def inner_update(self, train: Any) -> Tensor:
        """`inner_step` for loops that look at losses later: on an accelerator nothing waits for the device.

        Save for what must be known now: learned settings, the loss that `ReduceLROnPlateau` watches, and
        which gradients the other processes have.

        Returns:
            The inner loss before the update, a scalar on its device, not finite where its gradient is not.
            The update is taken all the same, whatever `on_nonfinite` is: such a loss says that the modules
            are spoilt.
        """
        loss, norm, parameters, grads, outer = self._differentiate(self._inner.batches(train))
        seen = loss.item() if self._inner.needs_loss else math.nan
        self._inner.apply(parameters, grads, outer, seen)
        self.counts["inner_steps"] += 1
        return torch.where(torch.isfinite(norm), loss, math.nan)

    def step(self, train: Any, val: Any) -> StepInfo:
        """Hypergradient → outer update → `inner_steps` inner updates, unless `unroll` asks for another order.

        Args:
            train: one batch, used by every unrolled and live inner step, or `Batches`, of which unrolled
                step t and live inner step t take the t-th; a method that looks at one point only takes the
                mean over all.
            val: one batch of the outer loss, or `Batches`, over which it is averaged.

        Returns:
            Losses, norms, reports, skipped updates and timings.
        """
        batches = self._inner.batches(train)
        batches.check_steps(self.inner_steps, f"train, for inner_steps={self.inner_steps}", exact=False)
        if self._restart is not None:
            self._restart.restore()
        steps = self.method.unrolled_steps
        if self.unroll == "look-ahead":
            seen = batches
            if steps is not None and steps < len(batches) <= self.inner_steps:
                seen = Batches(itertools.islice(batches, steps))
            info = self._move_outer(self._judge(seen, val))
            info = self._train(batches, info)
        elif steps is not None:
            judged = self._judge(batches, val)
            with self._inner.schedule_held():  # the live steps are the unrolled ones
                moved = self._train(batches, StepInfo())
            info = _joined(self._move_outer(judged), moved)
        else:
            moved = self._train(batches, StepInfo())
            judged = self._judge(batches, val)
            info = _joined(self._move_outer(judged), moved)
        for callback in self.callbacks:
            callback(self, info)
        return info

    def learning_rates(self) -> dict[str, float]:
        """The present learning rate of each torch.optim level, `inner/lr` and `outer/lr` (first group)."""
        return {**self._inner.learning_rate(), **self._outer.learning_rate()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: a plain nested dict of tensors (copies) and JSON values.

        It holds both modules, both optimisers and their schedulers, the counters, where a restarted inner
        problem begins, callbacks that have a `state_dict`, and torch's random number generators (those of
        this process). The position in the data is the caller's.
        """
        return solver_state(
            self.problem, (self._inner, self._outer), self.counts, self._restart, self.callbacks
        )

    def load_state_dict(self, state: Mapping[str, Any], *, restore_rng: bool = True) -> None:
        """Take over what `state_dict` gave; a state that does not fit changes nothing.

        Args:
            state: the saved state; tensors may lie on any device.
            restore_rng: also set torch's random number generators.

        Raises:
            StateError: the state is of another version, or does not fit the modules or optimisers.
        """
        load_solver_state(
            state,
            self.problem,
            (self._inner, self._outer),
            self.counts,
            self._restart,
            self.callbacks,
            restore_rng=restore_rng,
        )

    def _judge(self, batches: Batches, val: Any) -> _Judged:
        began = time.perf_counter()
        result = self._evaluate(batches, self._outer.batches(val))
        skipped: tuple[str, ...] = ()
        try:
            result.check_finite(self.problem)
        except NonFiniteError as error:
            skipped = (self._skip(error),)
        return _Judged(result, skipped, time.perf_counter() - began)

    def _move_outer(self, judged: _Judged) -> StepInfo:
        began = time.perf_counter()
        result = judged.result
        if not judged.skipped:
            parameters = self.problem.outer_parameters()
            loss = result.outer_loss.item()
            slopes = tuple(result[name] for name in parameters)
            self._outer.apply(tuple(parameters.values()), slopes, {}, loss)
            self.counts["outer_steps"] += 1
        norm = result.inner_gradient_norm
        return StepInfo(
            outer_loss=result.outer_loss.item(),
            unroll_losses=tuple(result.inner_losses.tolist()),
            hypergradient_norm=result.norm().item(),
            linearization_gradient_norm=None if norm is None else norm.item(),
            linear_solves=result.linear_solves,
            notes=result.notes,
            skipped=judged.skipped,
            skipped_total=self.counts["skipped"],
            seconds=Seconds(hypergradient=judged.seconds, outer=time.perf_counter() - began),
        )

    def _train(self, batches: Batches, info: StepInfo) -> StepInfo:
        for index in range(self.inner_steps):
            info = _joined(info, self._move_inner(batches.at(index)))
        return info

    def _move_inner(self, batches: Batches) -> StepInfo:
        began = time.perf_counter()
        buffers = fork(self.problem.buffers())
        loss, total, parameters, grads, outer = self._differentiate(batches)
        value, norm = loss.item(), total.item()
        skipped: tuple[str, ...] = ()
        if not (abs(value) < float("inf") and norm < float("inf")):
            error = NonFiniteLossError(
                "the inner loss or its gradient is not finite",
                where=self.problem.describe("inner"),
                found=f"loss {value}, gradient norm {norm}",
                fix="lower the inner learning rate, or look for log(0), sqrt(0) and 0/0 in the loss",
            )
            with torch.no_grad():
                for name, buffer in self.problem.buffers().items():
                    buffer.copy_(buffers[name])
            skipped = (self._skip(error),)
        else:
            self._inner.apply(parameters, grads, outer, value)
            self.counts["inner_steps"] += 1
        return StepInfo(
            inner_loss=value,
            inner_gradient_norm=norm,
            skipped=skipped,
            skipped_total=self.counts["skipped"],
            seconds=Seconds(inner=time.perf_counter() - began),
        )

    def _differentiate(self, batches: Batches) -> tuple[Tensor, Tensor, Tensors, MaybeTensors, NamedTensors]:
        """Live inner loss, its gradient's norm, inner parameters, their gradient, outer parameters."""
        parameters = tuple(self.problem.inner_parameters().values())
        with self._precision():
            loss, grads = live_gradient(self.problem, batches, parameters)
        if self._group is not None:
            loss, grads = self._group.average(loss, grads, parameters)
        present = [grad for grad in grads if grad is not None]
        if not present:
            raise IndependentLossError(
                "the loss does not depend on the inner parameters",
                where=self.problem.describe("inner"),
                fix="use the `inner` argument inside the loss, without detach() or no_grad()",
            )
        outer = {name: p.detach() for name, p in self.problem.outer_parameters().items()}
        return loss, torch.nn.utils.get_total_norm(present), parameters, grads, outer

    def _evaluate(self, train: Batches, val: Batches) -> Hypergradient:
        parameters = self.problem.inner_parameters()
        optimizer = self._inner.rule(parameters) if self.method.uses_optimizer else self.inner_optimizer
        with self._precision():
            return evaluate(self.problem, self.method, train, val, optimizer=optimizer)

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self._autocast is None:
            return contextlib.nullcontext()
        device = next(self.problem.inner.parameters()).device.type
        return torch.autocast(device, dtype=self._autocast)

    def _skip(self, error: NonFiniteError) -> str:
        if self.on_nonfinite == "raise":
            raise error
        self.counts["skipped"] += 1
        return str(error)


def _joined(info: StepInfo, inner: StepInfo) -> StepInfo:
    """What is known so far, with an inner update."""
    return replace(
        info,
        inner_loss=inner.inner_loss,
        inner_gradient_norm=inner.inner_gradient_norm,
        skipped=info.skipped + inner.skipped,
        skipped_total=max(info.skipped_total, inner.skipped_total),
        seconds=replace(info.seconds, inner=info.seconds.inner + inner.seconds.inner),
    )
