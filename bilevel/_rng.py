"""The state of torch's random number generators, so that a step can be replayed with its dropout masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RngState:
    """State of the CPU generator and of the generator of each accelerator, by device name."""

    cpu: Tensor
    devices: dict[str, Tensor]

    @classmethod
    def capture(cls, devices: Iterable[torch.device]) -> RngState:
        """Read the generators of the CPU and of `devices`."""
        return cls(
            torch.get_rng_state(),
            {
                str(device): torch.get_device_module(device).get_rng_state(*_which(device))
                for device in devices
            },
        )

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        for name, state in self.devices.items():
            device = torch.device(name)
            torch.get_device_module(device).set_rng_state(state, *_which(device))

    def same_as(self, other: RngState) -> bool:
        """Whether nothing was drawn between the two."""
        return torch.equal(self.cpu, other.cpu) and all(
            torch.equal(state, other.devices[name]) for name, state in self.devices.items()
        )


def accelerators(tensors: Iterable[Tensor]) -> tuple[torch.device, ...]:
    """The devices, other than the CPU, on which the tensors lie."""
    found = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    return tuple(sorted(found, key=str))


@contextlib.contextmanager
def preserved(devices: Iterable[torch.device]) -> Iterator[None]:
    """Put the generators back, when the block ends, to where they were when it began."""
    state = RngState.capture(devices)
    try:
        yield
    finally:
        state.restore()


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """How a device is named to its module: there is one of MPS, and older versions of torch take no name."""
    return () if device.type == "mps" else (device,)
