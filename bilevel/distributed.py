"""Several processes: losses, gradients and hypergradients of the joined batch.

Each process evaluates the losses on its own part of the batch. The global loss is the mean over the
processes, Ḡ(w, λ) = (1/R) Σᵣ Gᵣ(w, λ). Parameters enter a loss through `_Enter`, whose derivative is averaged
over the processes; so every first and second derivative that any method takes is one of Ḡ, and all processes
compute the same numbers. Equal parts and mean losses give what one process computes on the joined batch; a
loss that normalises over its batch (`ClusterWeights` and `ClassWeights` as they are by default) does so over
the part of its process, which is another loss.

Under forward mode all processes hold the same tangents of the parameters, and the tangents of gradients are
averaged with them. Messages do not work under vmap, so `ForwardMode` takes one coordinate after the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel

from ._autograd import Autocast
from ._types import Loss, NamedTensors, Tensors
from .batches import Batches
from .errors import BatchError, OptionError
from .problem import Problem

R = TypeVar("R")
ProcessGroup: TypeAlias = Any
"""A torch.distributed process group; typed loosely because builds without distributed support lack it."""


class Group:
    """A process group of more than one process, and the mean over it."""

    def __init__(self, handle: ProcessGroup | None) -> None:
        self.handle = handle
        self.size = dist.get_world_size(handle)

    def mean(self, tensors: Sequence[Tensor]) -> Tensors:
        """Each tensor's mean over the processes, by one message for each type; no derivative."""
        result = list(tensors)
        for key in dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors):
            chosen = [i for i, tensor in enumerate(tensors) if (tensor.dtype, tensor.device) == key]
            flat = torch.cat([tensors[i].detach().reshape(-1) for i in chosen])
            dist.all_reduce(flat, group=self.handle)
            flat = flat / self.size
            for i, part in zip(chosen, flat.split([tensors[i].numel() for i in chosen]), strict=True):
                result[i] = part.view(tensors[i].shape)
        return tuple(result)

    def anywhere(self, present: Sequence[bool], device: torch.device) -> list[bool]:
        """For each entry, whether it is true in any process."""
        flags = torch.tensor(present, dtype=torch.int32, device=device)
        dist.all_reduce(flags, group=self.handle)
        return [bool(flag) for flag in flags.tolist()]

    def mean_present(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor], mean: Callable[..., Tensors]
    ) -> list[Tensor | None]:
        """The mean of gradients, zero where a process has None; None where all have."""
        used = self.anywhere([tensor is not None for tensor in tensors], like[0].device)
        filled = [
            torch.zeros_like(other) if tensor is None else tensor
            for tensor, other, one in zip(tensors, like, used, strict=True)
            if one
        ]
        found = iter(mean(*filled) if filled else ())
        return [next(found) if one else None for one in used]

    def agrees(self, value: int, device: torch.device) -> bool:
        """Whether all processes hold the same number."""
        ends = torch.tensor([value, -value], dtype=torch.int64, device=device)
        dist.all_reduce(ends, dist.ReduceOp.MAX, group=self.handle)
        return bool(ends[0] == -ends[1])

    def average(
        self, loss: Tensor, grads: Sequence[Tensor | None], like: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """A loss and its gradients, averaged."""
        averaged = self.mean_present(grads, like, lambda *given: self.mean(given))
        return self.mean([loss])[0], tuple(averaged)

    def share_start(self, *modules: nn.Module) -> None:
        """Give every process the parameters and buffers of the first one."""
        source = dist.get_global_rank(self.handle, 0) if self.handle is not None else 0
        with torch.no_grad():
            for module in modules:
                for tensor in (*module.parameters(), *module.buffers()):
                    sent = tensor.contiguous()  # a message is the memory as it lies
                    dist.broadcast(sent, source, group=self.handle)
                    tensor.copy_(sent)


class SharedProblem(Problem):
    """A problem whose functional losses are means over the processes of a group.

    Buffers such as BatchNorm statistics stay those of the process, as in DistributedDataParallel without
    SyncBatchNorm.
    """

    vectorizes = False

    def __init__(
        self, inner_loss: Loss, outer_loss: Loss, inner: nn.Module, outer: nn.Module, group: Group
    ) -> None:
        super().__init__(inner_loss, outer_loss, inner, outer)
        self._group = group

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
        """See `Problem.run`."""
        entered = self._enter((*inner.values(), *outer.values()))
        return super().run(
            level,
            dict(zip(inner, entered[: len(inner)], strict=True)),
            dict(zip(outer, entered[len(inner) :], strict=True)),
            buffers,
            batch,
            lambda loss: then(_Mean.apply(self._group, loss)[0]),
            autocast,
        )

    def check_batches(self, *given: Batches) -> None:
        """Raise unless all processes hold the same number of batches: each batch is a message to the others.

        Raises:
            BatchError: they do not.
        """
        counts = [[sum(1 for _ in batches.at(i).flat()) for i in range(len(batches))] for batches in given]
        device = next(self.inner.parameters()).device
        if not self._group.agrees(zlib.crc32(repr(counts).encode()), device):
            raise BatchError(
                "the processes have different numbers of batches or micro-batches",
                where="train or val",
                found=f"{counts} in this process",
                fix="give every process equally large parts of each batch",
            )

    def _enter(self, tensors: Sequence[Tensor]) -> Tensors:
        """`_Enter` of the values; all processes hold the same tangents, which pass by it."""
        duals = [forward_ad.unpack_dual(tensor) for tensor in tensors]
        entered = _Enter.apply(self._group, *(dual.primal for dual in duals))
        return tuple(
            one if dual.tangent is None else forward_ad.make_dual(one, dual.tangent)
            for one, dual in zip(entered, duals, strict=True)
        )


def find_group(choice: ProcessGroup | Literal["auto"] | None) -> Group | None:
    """The group to average over: with `"auto"` the default one, if torch.distributed was initialised.

    Raises:
        OptionError: a group was given, but torch.distributed is not initialised.
    """
    ready = dist.is_available() and dist.is_initialized()
    if choice is None or (isinstance(choice, str) and choice == "auto" and not ready):
        return None
    if isinstance(choice, str) and choice != "auto":
        raise OptionError(
            "unknown choice", where="process_group", found=repr(choice), expected="'auto', None or a group"
        )
    if not ready:
        raise OptionError(
            "torch.distributed is not initialised",
            where="process_group",
            fix="call torch.distributed.init_process_group first, for example under torchrun",
        )
    group = Group(None if isinstance(choice, str) else choice)
    return group if group.size > 1 else None


def make_problem(
    inner_loss: Loss, outer_loss: Loss, inner: nn.Module, outer: nn.Module, group: Group | None
) -> Problem:
    """The problem of one process, or of a group whose processes then start from the same parameters.

    Raises:
        OptionError: a module is wrapped in DistributedDataParallel.
    """
    for name, module in (("inner", inner), ("outer", outer)):
        if isinstance(module, DistributedDataParallel):
            raise OptionError(
                "the module is wrapped in DistributedDataParallel",
                where=name,
                fix="pass the bare module: the solver averages gradients and hypergradients by itself",
            )
    if group is None:
        return Problem(inner_loss, outer_loss, inner, outer)
    problem = SharedProblem(inner_loss, outer_loss, inner, outer, group)
    group.share_start(inner, outer)
    return problem


class _Enter(torch.autograd.Function):
    """The same values, whose derivatives are means over the processes."""

    @staticmethod
    def forward(group: Group, *tensors: Tensor) -> Tensors:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.group = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.like = [tensor.detach() for tensor in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        def mean(*given: Tensor) -> Tensors:
            return tuple(_Mean.apply(ctx.group, *given))

        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        found: list[Tensor | None] = [None] * len(grads)
        averaged = ctx.group.mean_present([grads[i] for i in wanted], [ctx.like[i] for i in wanted], mean)
        for i, grad in zip(wanted, averaged, strict=True):
            found[i] = grad
        return None, *found


class _Mean(torch.autograd.Function):
    """The mean over the processes. Its derivative is the identity, because `_Enter` takes the mean of it."""

    @staticmethod
    def forward(group: Group, *tensors: Tensor) -> Tensors:
        return group.mean(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.group = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, group: None, *tangents: Tensor | None) -> Any:
        present = [one for one in tangents if one is not None]
        found = iter(ctx.group.mean(present) if present else ())
        return tuple(None if one is None else next(found) for one in tangents)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        return None, *grads
