"""The alternating loop: hypergradient → outer update → inner update."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._autograd import gradients
from ._info import Seconds, StepInfo
from ._live import live_optimizer, plain
from ._rng import RngState
from ._types import Loss
from .batches import as_batches
from .errors import (
    IndependentLossError,
    NonFiniteError,
    NonFiniteLossError,
    OptimizerError,
    OptionError,
    StateError,
)
from .hypergradients import Hypergradient, HypergradientMethod
from .hypergradients import hypergradient as evaluate
from .optim import LearnedSettings
from .problem import Problem, fork

_VERSION = 1


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
            named error, or `"skip"` the update and count it. It never reaches the parameters.

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
    ) -> None:
        if on_nonfinite not in ("raise", "skip"):
            raise OptionError(
                "unknown choice", where="on_nonfinite", found=repr(on_nonfinite), expected="'raise' or 'skip'"
            )
        if inner_steps < 1:
            raise OptionError("too few steps", where="inner_steps", found=inner_steps, expected="≥ 1")
        if not isinstance(hypergradient, HypergradientMethod):
            raise OptionError(
                "not a hypergradient method",
                where="hypergradient",
                found=repr(hypergradient),
                expected="such as Unrolled(steps=5), Implicit(ConjugateGradient()) or GaussNewton()",
            )
        self.problem = Problem(inner_loss, outer_loss, inner, outer)
        self.method = hypergradient
        self.inner_steps = inner_steps
        self.on_nonfinite = on_nonfinite
        self.inner_optimizer = inner_optimizer
        self.outer_optimizer = outer_optimizer
        self._inner_live = live_optimizer(inner_optimizer, self.problem.inner_parameters(), "inner")
        self._outer_live = live_optimizer(outer_optimizer, self.problem.outer_parameters(), "outer")
        self.counts = {"inner_steps": 0, "outer_steps": 0, "skipped": 0}
        if isinstance(inner_optimizer, LearnedSettings) and not hypergradient.uses_optimizer:
            raise OptimizerError(
                "only a method that unrolls the inner optimiser can learn its settings",
                where=f"hypergradient={type(hypergradient).__name__}",
                fix="use Unrolled(steps=...), or a plain optimiser with fixed settings",
            )
        if hypergradient.uses_optimizer:
            # Refuse an optimiser that cannot be unrolled now, not in the first step.
            self._inner_live.rule(self.problem.inner_parameters())

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
        result = self._evaluate(train, val)
        if self.on_nonfinite == "raise":
            result.check_finite(self.problem)
        return result

    def outer_step(self, train: Any, val: Any) -> StepInfo:
        """Compute the hypergradient and let the outer optimiser take one step along it."""
        began = time.perf_counter()
        result = self._evaluate(train, val)
        skipped: tuple[str, ...] = ()
        try:
            result.check_finite(self.problem)
        except NonFiniteError as error:
            skipped = (self._skip(error),)
        computed = time.perf_counter()
        if not skipped:
            parameters = self.problem.outer_parameters()
            self._outer_live.apply(tuple(parameters.values()), tuple(result.values()), {})
            self.counts["outer_steps"] += 1
        norm = result.inner_gradient_norm
        return StepInfo(
            outer_loss=result.outer_loss.item(),
            unroll_losses=tuple(result.inner_losses.tolist()),
            hypergradient_norm=result.norm().item(),
            linearization_gradient_norm=None if norm is None else norm.item(),
            linear_solves=result.linear_solves,
            skipped=skipped,
            skipped_total=self.counts["skipped"],
            seconds=Seconds(hypergradient=computed - began, outer=time.perf_counter() - computed),
        )

    def inner_step(self, train: Any) -> StepInfo:
        """One ordinary training step of the live inner module on one batch (or the mean over `Batches`).

        If the loss or its gradient is not finite, buffers such as BatchNorm statistics are put back too.
        """
        began = time.perf_counter()
        parameters = tuple(self.problem.inner_parameters().values())
        outer = {name: p.detach() for name, p in self.problem.outer_parameters().items()}
        where = self.problem.describe("inner")

        def differentiate(loss: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            return loss.detach(), gradients(loss, parameters)

        buffers = fork(self.problem.buffers())
        with torch.enable_grad():
            loss, grads = self.problem.live("inner", as_batches(train, "train"), differentiate)
        present = [grad for grad in grads if grad is not None]
        if not present:
            raise IndependentLossError(
                "the loss does not depend on the inner parameters",
                where=where,
                fix="use the `inner` argument inside the loss, without detach() or no_grad()",
            )
        norm = torch.nn.utils.get_total_norm(present).item()
        value = loss.item()
        skipped: tuple[str, ...] = ()
        if not (abs(value) < float("inf") and norm < float("inf")):
            error = NonFiniteLossError(
                "the inner loss or its gradient is not finite",
                where=where,
                found=f"loss {value}, gradient norm {norm}",
                fix="lower the inner learning rate, or look for log(0), sqrt(0) and 0/0 in the loss",
            )
            with torch.no_grad():
                for name, buffer in self.problem.buffers().items():
                    buffer.copy_(buffers[name])
            skipped = (self._skip(error),)
        else:
            self._inner_live.apply(parameters, grads, outer)
            self.counts["inner_steps"] += 1
        return StepInfo(
            inner_loss=value,
            inner_gradient_norm=norm,
            skipped=skipped,
            skipped_total=self.counts["skipped"],
            seconds=Seconds(inner=time.perf_counter() - began),
        )

    def step(self, train: Any, val: Any) -> StepInfo:
        """Hypergradient → outer update → `inner_steps` inner updates.

        Args:
            train: one batch, used by every unrolled and live inner step, or `Batches`, of which unrolled
                step t and live inner step t take the t-th.
            val: one batch of the outer loss, or `Batches`, over which it is averaged.

        Returns:
            Losses, norms, reports, skipped updates and timings.
        """
        batches = as_batches(train, "train")
        batches.check_steps(self.inner_steps, f"train, for inner_steps={self.inner_steps}", exact=False)
        info = self.outer_step(batches, val)
        for index in range(self.inner_steps):
            inner = self.inner_step(batches.at(index))
            info = replace(
                info,
                inner_loss=inner.inner_loss,
                inner_gradient_norm=inner.inner_gradient_norm,
                skipped=info.skipped + inner.skipped,
                skipped_total=inner.skipped_total,
                seconds=replace(info.seconds, inner=info.seconds.inner + inner.seconds.inner),
            )
        return info

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: a plain nested dict of tensors (copies) and JSON values.

        It holds both modules, both optimisers, the counters and torch's random number generators, but no
        learning-rate scheduler and no data loader: those are the caller's.
        """
        rng = RngState.capture(self.problem.devices())
        return {
            "version": _VERSION,
            "inner": _copied(self.problem.inner),
            "outer": _copied(self.problem.outer),
            "inner_optimizer": self._inner_live.state_dict(),
            "outer_optimizer": self._outer_live.state_dict(),
            "counts": dict(self.counts),
            "rng": {"cpu": rng.cpu, "devices": dict(rng.devices)},
        }

    def load_state_dict(self, state: Mapping[str, Any], *, restore_rng: bool = True) -> None:
        """Take over what `state_dict` gave.

        Args:
            state: the saved state; tensors may lie on any device.
            restore_rng: also set torch's random number generators.

        Raises:
            StateError: the state is of another version, or does not fit the modules or optimisers.
        """
        if state.get("version") != _VERSION:
            raise StateError(
                "unknown version", where="state_dict", found=state.get("version"), expected=_VERSION
            )
        try:
            self.problem.inner.load_state_dict(state["inner"])
            self.problem.outer.load_state_dict(state["outer"])
            self._inner_live.load_state_dict(state["inner_optimizer"])
            self._outer_live.load_state_dict(state["outer_optimizer"])
            self.counts.update(state["counts"])
            if restore_rng:
                RngState(
                    state["rng"]["cpu"].cpu(), {k: v.cpu() for k, v in state["rng"]["devices"].items()}
                ).restore()
        except (KeyError, RuntimeError, ValueError) as error:
            raise StateError(
                "the state does not fit this solver",
                where="load_state_dict",
                found=error,
                fix="build the solver with the same modules and optimisers before loading",
            ) from error

    def _evaluate(self, train: Any, val: Any) -> Hypergradient:
        rule = self._inner_live.rule(self.problem.inner_parameters()) if self.method.uses_optimizer else None
        return evaluate(self.problem, self.method, train, val, optimizer=rule)

    def _skip(self, error: NonFiniteError) -> str:
        if self.on_nonfinite == "raise":
            raise error
        self.counts["skipped"] += 1
        return str(error)


def _copied(module: nn.Module) -> dict[str, Any]:
    return {name: plain(value) for name, value in module.state_dict().items()}
