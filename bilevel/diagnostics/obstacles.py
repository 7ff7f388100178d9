"""A dry run that finds operators without a second derivative, by operator and module."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .. import _rng
from .._autograd import gradients, graph, leaves, pull_back, wrong_again
from ..batches import as_batches
from ..errors import DoubleBackwardError
from ..problem import Problem

# What to use instead, by a part of the operator's name.
_INSTEAD = {
    "hardsigmoid": "torch.clamp(x / 6 + 0.5, 0, 1), which has the same values, or nn.Sigmoid",
    "scaled_dot_product": "the math backend: torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around it",
    "embedding_bag": "nn.Embedding and a sum or mean over the bag",
    "weight_norm": "a parametrization of your own: g * v / torch.norm_except_dim(v, 2, 0), the same values",
    "ctc": "a loss written in torch operators (a forward recursion with logsumexp)",
    "margin_loss": "the same loss written with torch.relu",
    "roi_align": "F.grid_sample on the boxes",
    "deform_conv2d": "F.grid_sample followed by a convolution",
    "cudnn_rnn": "with torch.backends.cudnn.flags(enabled=False), around the loss",
    "compile": "the module without torch.compile",
}
_OTHERWISE = "an equivalent made of other operators, or GaussNewton, which needs first derivatives only"


@dataclass(frozen=True)
class Obstacle:
    """An operator of the inner loss that cannot be differentiated twice, or would be wrongly.

    Attributes:
        operator: its name, as torch has it.
        module: path and class of the module whose forward calls it; the loss itself if no module does.
        instead: what to use in its place.
    """

    operator: str
    module: str
    instead: str

    def __str__(self) -> str:
        return f"{self.operator} in {self.module}: use {self.instead}"


def find_obstacles(problem: Problem, train: Any) -> tuple[Obstacle, ...]:
    """Evaluate the inner loss once, and look for operators that forbid a second derivative.

    Changes nothing. Everything on the way from the inner parameters to the loss is seen at once, except for
    operators that raise only when the second derivative is computed: of these the first.

    Args:
        problem: the two losses and modules.
        train: one batch of the inner loss, or `Batches`.

    Raises:
        BilevelError: the loss fails for another reason.
    """
    inner, outer = problem.inner_parameters(), problem.outer_parameters()
    w, lam = leaves(inner.values()), leaves(outer.values())
    modules = _Modules(problem)

    def search(loss: Tensor) -> tuple[Obstacle, ...]:
        forward = list(graph([loss]))
        grads = gradients(loss, w, create_graph=True)
        reasons = [
            reason
            for node in graph(grads)
            if (reason := _refusal(node) or wrong_again(node, outer.values())) is not None
        ]
        if not reasons:
            try:
                pull_back(grads, (*w, *lam), [None if g is None else torch.ones_like(g) for g in grads])
            except (RuntimeError, NotImplementedError) as error:
                reasons.append(str(error))
        found = (modules.obstacle(reason, forward) for reason in dict.fromkeys(reasons))
        return tuple(dict.fromkeys(one for several in found for one in several))

    named = dict(zip(inner, w, strict=True)), dict(zip(outer, lam, strict=True))
    try:
        with _rng.preserved(problem.devices()), torch.enable_grad(), modules:
            answer, _ = problem.run(
                "inner", *named, problem.buffers(), as_batches(train, "train"), search, problem.autocast()
            )
    except DoubleBackwardError as error:  # some refuse as soon as the first derivative is to keep a graph
        return tuple(modules.obstacle(str(error.found), []))
    return answer


class _Modules:
    """While active, notes which module's forward made each node of the graph."""

    def __init__(self, problem: Problem) -> None:
        self._loss = problem.describe("inner")
        self._named = {
            module: f"{level}.{path}".rstrip(".") + f" ({type(module).__name__})"
            for level, root in (("inner", problem.inner), ("outer", problem.outer))
            for path, module in root.named_modules()
        }
        self._of: dict[Any, str] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles = [module.register_forward_hook(self._note, with_kwargs=True) for module in self._named]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # Children ran before: what they made is theirs already, and the walk stops at it and at the inputs.
        before = {one.grad_fn for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        waiting = [one.grad_fn for one in tree_leaves(output) if isinstance(one, Tensor)]
        while waiting:
            node = waiting.pop()
            if node is None or node in before or node in self._of:
                continue
            self._of[node] = self._named[module]
            waiting += [following for following, _ in node.next_functions]

    def obstacle(self, reason: str, forward: Iterable[Any]) -> list[Obstacle]:
        operator = _operator(reason)
        instead = next((value for key, value in _INSTEAD.items() if key in operator.lower()), _OTHERWISE)
        nodes = [node for node in forward if _made_by(operator, node)]
        if operator == _CUSTOM:
            return [
                Obstacle(f"{node._forward_cls.__name__} ({_CUSTOM})", self._place(node), _OTHERWISE)
                for node in nodes
            ] or [Obstacle(_CUSTOM, self._loss, _OTHERWISE)]
        places = dict.fromkeys(self._place(node) for node in nodes) or {self._loss: None}
        return [Obstacle(operator, place, instead) for place in places]

    def _place(self, node: Any) -> str:
        return self._of.get(node, self._loss)


_CUSTOM = "autograd.Function marked with once_differentiable"


def _refusal(node: Any) -> str | None:
    """The message with which a node would refuse to be differentiated; None if it would not."""
    if node.name() == "torch::autograd::Error":
        return _CUSTOM
    if node.name() != "torch::autograd::NotImplemented":
        return None
    for attempt in (1, len(node._input_metadata)):
        try:
            node(*[torch.ones(())] * attempt)
        except (RuntimeError, TypeError) as error:  # TypeError: not that many arguments
            message = str(error)
            if "derivative for" in message:
                return message
    return "an operator"


def _operator(reason: str) -> str:
    """The operator that a message of autograd speaks of."""
    if reason == _CUSTOM or "once_differentiable" in reason:
        return _CUSTOM
    if "torch.compile" in reason:
        return "torch.compile"
    for pattern in (r"derivative for '?(?:\w+::)?(\w+)", r"double backwards? (?:on|for) '?(?:\w+::)?(\w+)"):
        match = re.search(pattern, reason, re.IGNORECASE)
        if match:
            return re.sub(r"(_dense)?_backward\w*$", "", match[1]).strip("_")
    return reason.splitlines()[0]


def _made_by(operator: str, node: Any) -> bool:
    if operator == _CUSTOM:
        function = getattr(node, "_forward_cls", None)
        return function is not None and hasattr(function.backward, "__wrapped__")
    made = re.sub(r"Backward\d*$", "", node.name()).replace("_", "").lower()
    if operator == "torch.compile":
        return made.startswith("compiledfunction")
    wanted = operator.replace("_", "").lower()
    return wanted in made or (len(made) > 5 and wanted.startswith(made))
