"""Optimiser settings that are outer parameters: learning rate, momentum, weight decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._types import MaybeTensors, Tensors
from ..errors import OptionError
from ._base import PerParameterRule, State, UpdateRule

Reader: TypeAlias = str | Callable[[Mapping[str, Tensor]], Tensor]


class LearnedSettings:
    """A torch.optim optimiser some of whose settings are read from the outer parameters at each step.

    Pass it as `inner_optimizer`. Before each live step the settings are written into the optimiser's
    parameter groups; in an unroll they stay differentiable, so the hypergradient flows through the update.
    Only methods that differentiate its step (`Unrolled`, `ForwardMode`, `SAMA`) can learn them.

    Args:
        optimizer: a live optimiser that `from_torch` takes.
        settings: setting → how to read it: the name of an outer parameter with one element, or a function of
            the outer parameters (by name) that gives one, such as `lambda outer: outer["log_lr"].exp()`. A
            sequence has one entry for each parameter group, None to leave that group's as it is. Which
            settings can be learned depends on the optimiser: `lr` and `weight_decay` nearly always,
            `momentum` (SGD, RMSprop), `beta1` (Adam, AdamW, Adamax, RAdam).

    Raises:
        OptionError: no setting is given, the optimiser does not have it or cannot learn it, or a sequence
            does not have as many entries as there are groups.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, **settings: Reader | Sequence[Reader | None]
    ) -> None:
        if not settings:
            raise OptionError("no setting is learned", where="LearnedSettings", expected="such as lr='lr'")
        self.optimizer = optimizer
        count = len(optimizer.param_groups)
        self._readers: list[dict[str, Reader]] = [{} for _ in range(count)]
        for name, given in settings.items():
            single = isinstance(given, str) or callable(given)
            readers: Sequence[Any] = [given] * count if single else list(given)  # type: ignore[arg-type]
            if len(readers) != count:
                raise OptionError(
                    "another number of entries than parameter groups",
                    where=f"LearnedSettings({name})",
                    found=len(readers),
                    expected=count,
                )
            for group, reader in zip(self._readers, readers, strict=True):
                if reader is not None:
                    group[name] = reader

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that are learned in at least one group."""
        return tuple(dict.fromkeys(name for group in self._readers for name in group))

    def write(self, outer: Mapping[str, Tensor]) -> None:
        """Write the present values into the parameter groups of the live optimiser."""
        for group, readers in zip(self.optimizer.param_groups, self._readers, strict=True):
            for name, reader in readers.items():
                value = _read(reader, outer, name).item()
                if name == "beta1":
                    group["betas"] = (value, group["betas"][1])
                else:
                    group[name] = value

    def rule(self, rule: PerParameterRule[Any, Any], parameters: Sequence[Tensor]) -> LearnedRule:
        """The optimiser's own rule, reading these settings from the outer parameters."""
        group_of = {
            id(p): readers
            for group, readers in zip(self.optimizer.param_groups, self._readers, strict=True)
            for p in group["params"]
        }
        return LearnedRule(rule, [group_of[id(p)] for p in parameters])


class LearnedRule(UpdateRule):
    """An update rule whose settings are read from the outer parameters at each step.

    Args:
        rule: the rule with its other settings and its state.
        readers: for each parameter, setting → how to read it; see `LearnedSettings`.

    Raises:
        OptionError: the rule cannot learn one of the settings.
    """

    def __init__(self, rule: PerParameterRule[Any, Any], readers: Sequence[Mapping[str, Reader]]) -> None:
        self._rule = rule
        self._readers = tuple(readers)
        for setting, one in zip(rule.settings, self._readers, strict=True):
            for name in one:
                if name not in type(setting).learnable:
                    raise OptionError(
                        "this setting cannot be learned",
                        where=f"LearnedSettings of {type(rule).__name__}",
                        found=name,
                        expected=f"one of {', '.join(type(setting).learnable)}",
                    )

    def init(self, params: Tensors) -> State:
        """The carried state."""
        return self._rule.init(params)

    def update(
        self, params: Tensors, grads: MaybeTensors, state: State, outer: Mapping[str, Tensor]
    ) -> tuple[Tensors, State]:
        """One step; see `UpdateRule.update`."""
        settings = [
            replace(
                setting, **{name: _read(reader, outer, name).to(param) for name, reader in readers.items()}
            )
            for param, setting, readers in zip(params, self._rule.settings, self._readers, strict=True)
        ]
        return self._rule.update_with(settings, params, grads, state)


def _read(reader: Reader, outer: Mapping[str, Tensor], name: str) -> Tensor:
    where = f"LearnedSettings({name})"
    if isinstance(reader, str):
        if reader not in outer:
            raise OptionError(
                "no outer parameter of this name", where=where, found=reader, expected=", ".join(outer)
            )
        value = outer[reader]
    else:
        value = reader(outer)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise OptionError("not one number", where=where, found=found, expected="a tensor of one element")
    return value.reshape(())
