"""What the card can do at most, measured, and how much of it a training step uses."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from .sides import Networks
from .timing import Contest, Job, run

_SIDE = 8192
_BYTES = 2**30


def measure_ceiling(job: Job) -> dict[str, float]:
    """Of a large bfloat16 product and a large copy; and the share of the former in an inner step.

    Returns:
        tflops, copy_gb_s: the ceilings. step_tflops: of our inner step under bfloat16 autocast.
        fraction: step_tflops / tflops.
    """
    a, b = (torch.randn(_SIDE, _SIDE, device=job["device"], dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(_BYTES, dtype=torch.uint8, device=job["device"])
    target = torch.empty_like(source)
    product = min(run(Contest("product", lambda: a @ b), {**job, "repeats": 20}).ours)
    copy = min(run(Contest("copy", lambda: target.copy_(source)), {**job, "repeats": 20}).ours)
    sides = Networks({**job, "reference": ""})
    method, batch = sides.method(), sides.batch()

    def step() -> float:
        with torch.autocast(sides.device.type, dtype=torch.bfloat16):
            return method.train_step(batch)

    with FlopCounterMode(display=False) as counter:
        step()
    seconds = min(run(Contest("step", step), job).ours)
    tflops, reached = 2 * _SIDE**3 / product / 1e12, counter.get_total_flops() / seconds / 1e12
    return {
        "tflops": tflops,
        "copy_gb_s": 2 * _BYTES / copy / 1e9,  # read and written
        "step_tflops": reached,
        "fraction": reached / tflops,
    }
