"""A GPU that is not there: its tensors say "cuda:0", compute on the CPU, and refuse to meet others.

torch itself is told that they lie on the device "meta", which needs no driver; Python code is told "cuda:0".
Real numbers are behind them, so a whole run can be made, and it should end as the one on the CPU does.

What it finds: tensors of two devices in one operation, `numpy()` of what lies there, generators of another
device, and (`PretendGPU.waits`) what waits for it: values that are read, copies from ordinary memory. What it
cannot find: kernels that are missing, slow, imprecise or not repeatable on a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
_META = torch.device("meta")
_COPIES = (aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default)
_READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
_FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)


class OnGPU(Tensor):
    """A tensor of the pretended device; `held` is what it holds, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        made: OnGPU = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=_META,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.held!r})"


class _Kernels(TorchDispatchMode):
    """Runs what is asked of the GPU on the CPU, below automatic differentiation."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.waits)


def _run(func: Any, args: Any, kwargs: dict[str, Any], waits: list[str] | None) -> Any:
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [leaf for leaf in leaves if isinstance(leaf, OnGPU)]
    to = kwargs.get("device")
    made_there = to is not None and torch.device(to).type == "meta"
    if not there and not made_there:
        return func(*args, **kwargs)
    to_host = to is not None and not made_there
    here = [leaf for leaf in leaves if not isinstance(leaf, OnGPU)]
    if func not in _COPIES and there and any(leaf.ndim for leaf in here):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, found cpu and cuda:0")
    if waits is not None:
        pinned = all(getattr(leaf, "pinned", False) for leaf in here)
        if func in _READS or to_host or (func in _COPIES and here and not pinned):
            waits.append(str(func))
    if made_there:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held_args, held_kwargs = tree_map(_held, (args, kwargs))
    found = func(*held_args, **held_kwargs)
    if to_host or (func is aten.copy_.default and not isinstance(args[0], OnGPU)):
        return args[0] if func is aten.copy_.default else found
    answer = tree_map(lambda leaf: OnGPU(leaf) if isinstance(leaf, Tensor) else leaf, found)
    return return_and_correct_aliasing(func, args, kwargs, answer) if there else answer


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnGPU) else leaf


class _Names(TorchFunctionMode):
    """Tells Python code "cuda:0", and torch "meta"."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        on_gpu = bool(args) and isinstance(args[0], OnGPU)
        if func == Tensor.device.__get__:
            return GPU if on_gpu else func(*args, **kwargs)
        if func == Tensor.is_cuda.__get__:
            return on_gpu
        if func == Tensor.is_meta.__get__:
            return False
        if func == Tensor.data.__set__ and on_gpu:
            args[0].held = args[1].held
        if getattr(func, "__name__", None) == "device":  # torch.device itself
            return func(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and on_gpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.tolist and on_gpu:
            self.waits.append("tolist")
            return args[0].held.tolist()
        if func is Tensor.cuda:
            return args[0].to(_META)
        pinned = func is Tensor.pin_memory or bool(kwargs.pop("pin_memory", False))
        if func is Tensor.pin_memory:
            answer = args[0].clone()
        else:
            device = kwargs.get("device")
            generator = kwargs.get("generator")
            if generator is not None and _is_gpu(device) and generator.device.type == "cpu":
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            if func in _FROM_VALUES and _is_gpu(device):
                del kwargs["device"]
                return func(*args, **kwargs).to(_META)
            args, kwargs = tree_map(lambda leaf: _META if _is_gpu(leaf) else leaf, (args, kwargs))
            answer = func(*args, **kwargs)
        if pinned:
            answer.pinned = True
        return answer


def _is_gpu(value: Any) -> bool:
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        type(value) is str and value.partition(":")[0] == "cuda"
    )


class PretendGPU:
    """What happened on it.

    Attributes:
        waits: operations for which the host waits for the device; cleared by whoever looks.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []


@contextmanager
def pretend_gpu() -> Iterator[PretendGPU]:
    """A machine with one GPU for the time of the block."""
    gpu = PretendGPU()
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "pretended",
        "mem_get_info": lambda device=None: (2**33, 2**33),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed_all": lambda seed: None,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, answer)
        # What the steps of optimisers are recorded into does not exist.
        patch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None)
        with _Kernels(gpu.waits), _Names(gpu.waits):
            yield gpu
