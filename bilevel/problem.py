"""The bilevel problem: two losses and two modules, as pure functions of parameter dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import _rng
from ._autograd import Autocast
from ._types import Loss, NamedTensors
from .batches import Batches, as_batches
from .errors import NotScalarLossError, OptionError, ParameterError, explained

R = TypeVar("R")


class Problem:
    """Minimise F(w*(λ), λ) over λ, where w*(λ) minimises, or is some optimiser steps on, G(w, λ).

    w are the parameters of `inner`, λ those of `outer`, G the inner loss and F the outer loss. The losses
    are written against ordinary modules and called as `loss(inner, outer, batch)`; both modules become the
    children of a tiny module whose forward calls the loss, and `torch.func.functional_call` makes that a
    pure function. So everything with parameters or buffers that a loss uses and that should be
    differentiated or protected must be reachable from `inner` or `outer`.

    Which parameters count: those that require a gradient when they are asked for; the others are constants.
    Tied parameters count once, under their first name. A parameter reachable from both modules belongs to
    `outer`. Do not put a new Parameter object, or a new submodule, in the place of an old one after the
    problem was built: build a new problem.

    Args:
        inner_loss: G, `inner_loss(inner, outer, batch)` → scalar tensor.
        outer_loss: F, `outer_loss(inner, outer, batch)` → scalar tensor.
        inner: the module whose parameters the inner loss is minimised over.
        outer: the module whose parameters the outer loss is minimised over.

    Raises:
        OptionError: `inner` or `outer` is not a module, or a loss is not callable.
        ParameterError: a module has no parameter that requires a gradient, or one that does is lazy, complex,
            or made in inference mode.
    """

    vectorizes: ClassVar[bool] = True
    """Whether derivatives of the losses may be taken under vmap."""

    def __init__(self, inner_loss: Loss, outer_loss: Loss, inner: nn.Module, outer: nn.Module) -> None:
        for name, module in (("inner", inner), ("outer", outer)):
            if not isinstance(module, nn.Module):
                raise OptionError(
                    "not a torch.nn.Module",
                    where=name,
                    found=type(module).__name__,
                    fix="wrap bare parameters in a module, for example torch.nn.ParameterDict",
                )
        for name, loss in (("inner_loss", inner_loss), ("outer_loss", outer_loss)):
            if not callable(loss):
                raise OptionError("not callable", where=name, found=type(loss).__name__)
        self.inner = inner
        self.outer = outer
        self._loss = {"inner": inner_loss, "outer": outer_loss}
        self._both = _Both(inner, outer)
        slots = _slots(self._both)
        outer_ids = {id(parameter) for parameter in outer.parameters()}
        self._parameters: dict[str, dict[str, nn.Parameter]] = {
            "inner": {name: p for name, p in inner.named_parameters() if id(p) not in outer_ids},
            "outer": dict(outer.named_parameters()),
        }
        self._slots = {
            level: {name: tuple(slots[id(p)]) for name, p in named.items()}
            for level, named in self._parameters.items()
        }
        self.inner_parameters()
        self.outer_parameters()

    def inner_parameters(self) -> dict[str, nn.Parameter]:
        """The live inner parameters w, by their name in `inner`.

        Raises:
            ParameterError: none requires a gradient, or one that does cannot be learned (see the class).
        """
        return self._trainable("inner")

    def outer_parameters(self) -> dict[str, nn.Parameter]:
        """The live outer parameters λ, by their name in `outer`.

        Raises:
            ParameterError: none requires a gradient, or one that does cannot be learned (see the class).
        """
        return self._trainable("outer")

    def buffers(self) -> NamedTensors:
        """The live buffers of both modules, such as BatchNorm statistics, by their path in the problem."""
        return {
            f"{path}.{name}": buffer
            for path, module in self._both.named_modules()
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        }

    def devices(self) -> tuple[torch.device, ...]:
        """The devices, other than the CPU, that the problem lives on."""
        return _rng.accelerators((*self._both.parameters(), *self._both.buffers()))

    def describe(self, level: str) -> str:
        """Name the inner or the outer loss, with the user's function, for an error message."""
        loss = self._loss[level]
        return f"{level}_loss ({getattr(loss, '__qualname__', type(loss).__name__)})"

    def inner_loss(
        self,
        inner: Mapping[str, Tensor],
        outer: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Any,
    ) -> tuple[Tensor, NamedTensors]:
        """G(w, λ) and the buffers after it, without touching the modules.

        Args:
            inner: parameters by their name in `inner`; those left out are the live ones.
            outer: parameters by their name in `outer`; those left out are the live ones.
            buffers: as `buffers()` gives them; they are copied, never written to.
            batch: one batch, or `Batches`, over which the loss is averaged.

        Raises:
            NotScalarLossError: the loss returned something else than a floating-point scalar.
        """
        return self.run("inner", inner, outer, buffers, batch, lambda loss: loss)

    def outer_loss(
        self,
        inner: Mapping[str, Tensor],
        outer: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Any,
    ) -> tuple[Tensor, NamedTensors]:
        """F(w, λ) and the buffers after it; see `inner_loss`."""
        return self.run("outer", inner, outer, buffers, batch, lambda loss: loss)

    def run(
        self,
        level: str,
        inner: Mapping[str, Tensor],
        outer: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Any,
        then: Callable[[Tensor], R],
        autocast: Autocast | None = None,
    ) -> tuple[R, NamedTensors]:
        """Evaluate a loss and hand it to `then` while the given tensors still stand in the modules.

        Inside `then`, `buffers()` gives the buffers after the loss. Autocast, by default as it is now, covers
        the loss but not `then`.

        A module under activation checkpointing runs its forward again during the backward pass and must find
        the same tensors there: so differentiate inside `then`.
        """
        given: NamedTensors = {}
        for side, tensors in (("inner", inner), ("outer", outer)):
            slots = self._slots[side]
            for name, tensor in tensors.items():
                for slot in slots[name]:
                    given[slot] = tensor
        given.update(fork(buffers))
        with explained(self.describe(level)):
            answer = torch.func.functional_call(
                self._both,
                given,
                (self._loss[level], batch, then, self.describe(level), autocast or self.autocast()),
                tie_weights=False,
            )
        # functional_call writes buffers that were replaced, not only changed in place, back to its dict.
        return answer, {slot: given[slot].detach() for slot in buffers}

    def check_batches(self, *given: Batches) -> None:
        """Refuse batches that cannot be evaluated together; in one process there are none."""

    def autocast(self) -> Autocast:
        """The autocast that is on now, for the device type of the inner module."""
        return Autocast.capture(next(self.inner.parameters()).device.type)

    def live(self, level: str, batch: Any, then: Callable[[Tensor], R]) -> R:
        """Evaluate a loss on the live modules, as ordinary training does, and hand it to `then`."""
        where = self.describe(level)
        with explained(where):
            answer: R = self._both(self._loss[level], batch, then, where, self.autocast())
        return answer

    def _trainable(self, level: str) -> dict[str, nn.Parameter]:
        found = {name: p for name, p in self._parameters[level].items() if p.requires_grad}
        for name, p in found.items():
            _check_parameter(p, f"{level}.{name}")
        if not found:
            raise ParameterError(
                "no parameter requires a gradient",
                where=f"{level} ({type(getattr(self, level)).__name__})",
                fix="call requires_grad_() on what is to be learned; a parameter of both modules is outer",
            )
        return found


def _check_parameter(parameter: nn.Parameter, where: str) -> None:
    if is_lazy(parameter):
        raise ParameterError(
            "a lazy parameter that has no shape yet",
            where=where,
            fix="call the module once on a batch, before anything is built of it",
        )
    if parameter.is_complex():
        raise ParameterError(
            "a complex parameter",
            where=where,
            found=parameter.dtype,
            expected="a floating-point type",
            fix="keep its two parts in a real parameter, and use torch.view_as_complex of that",
        )
    if parameter.is_inference():
        raise ParameterError(
            "a parameter that was made in inference mode, which has no gradient",
            where=where,
            fix="build or load the module outside of torch.inference_mode()",
        )


class _Both(nn.Module):
    """Holds the two modules so that functional_call reaches both; its forward calls the user's loss."""

    def __init__(self, inner: nn.Module, outer: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.outer = outer

    def forward(
        self, loss: Loss, batch: Any, then: Callable[[Tensor], R], where: str, autocast: Autocast
    ) -> R:
        with autocast.forward():
            value = self._mean(loss, as_batches(batch, where), where)
        with autocast.backward():
            return then(value)

    def _mean(self, loss: Loss, batches: Batches, where: str) -> Tensor:
        values = [
            self._mean(loss, one, where)
            if isinstance(one, Batches)
            else _scalar(loss(self.inner, self.outer, one), where)
            for one in batches
        ]
        return batches.mean(values)


def _scalar(value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point():
        return value
    if isinstance(value, Tensor):
        found = f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    else:
        found = type(value).__name__
    raise NotScalarLossError(
        "the loss is not a scalar",
        where=where,
        found=found,
        expected="a floating-point tensor of shape ()",
        fix="return loss.mean() or loss.sum()",
    )


def _slots(module: nn.Module) -> dict[int, list[str]]:
    """Every place where a parameter is kept, by the parameter's identity; a shared module counts once."""
    found: dict[int, list[str]] = {}
    for path, name, parameter in _own_parameters(module):
        found.setdefault(id(parameter), []).append(f"{path}.{name}")
    return found


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    for path, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False, remove_duplicate=False):
            yield path, name, parameter


def fork(buffers: Mapping[str, Tensor]) -> NamedTensors:
    """Copies of the buffers; one that is kept in two places is still the same tensor in both."""
    copies: dict[int, Tensor] = {}
    for buffer in buffers.values():
        if id(buffer) not in copies:
            copies[id(buffer)] = buffer.detach().clone()
    return {slot: copies[id(buffer)] for slot, buffer in buffers.items()}
