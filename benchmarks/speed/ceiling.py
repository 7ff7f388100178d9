"""What the machine can do at most, measured, and how much of that training and evaluation use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from istd.engine.evaluation import evaluate
from istd.engine.runtime import autocast
from istd.metrics import MetricConvention

from .sides import Networks
from .timing import Contest, Job, run

_SIDE = {"cpu": 2048, "cuda": 8192}
_BYTES = {"cpu": 2**28, "cuda": 2**30}
_ROUNDS = 10


@dataclass
class Reached:
    """How near a piece of work comes to the largest matrix product.

    Attributes:
        precision: of its convolutions and products.
        gflop: of these alone, by torch's counter; what goes through every pixel once besides is not counted.
        fraction: its rate over that of the product in this precision.
    """

    name: str
    precision: str
    gflop: float
    ms: float
    gflop_s: float
    fraction: float


@dataclass
class Ceiling:
    """Attributes: GFLOP/s of a large product by precision; GB/s of a large copy; what was held against it."""

    products: dict[str, float]
    copy_gb_s: float
    reached: list[Reached] = field(default_factory=list)


def measure_ceiling(sides: Networks) -> dict[str, Any]:
    """The ceilings of the device, and the share of them in an inner step and in an evaluation, as JSON."""
    ceiling = Ceiling({name: _product(sides.job, name) for name in ("float32", "bfloat16")}, _copy(sides.job))
    for precision in ceiling.products:
        method = sides.method(student_weight=1.0)

        def step(method: Any = method, precision: str = precision) -> object:
            with autocast(precision, sides.device):
                return method.train_step(sides.batch())

        ceiling.reached.append(reach("inner step", precision, step, ceiling, sides.job))
    look = partial(evaluate, partial(sides.detector.logits, role="student"), sides.images, MetricConvention())
    name = f"evaluation of {len(sides.images)} images, student"
    ceiling.reached.append(reach(name, "float32", look, ceiling, sides.job))
    return asdict(ceiling)


def reach(name: str, precision: str, work: Callable[[], object], ceiling: Ceiling, job: Job) -> Reached:
    """Count and time `work`, and hold it against the product in its precision."""
    # Fused attention is not counted on every device; its plain form is, and does the same sums.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    gflop, seconds = counter.get_total_flops() / 1e9, min(run(Contest(name, work), job).ours)
    rate = gflop / seconds
    return Reached(name, precision, gflop, 1e3 * seconds, rate, rate / ceiling.products[precision])


def _product(job: Job, precision: str) -> float:
    side, dtype = _SIDE[job["device"]], getattr(torch, precision)
    a, b = (torch.randn(side, side, device=job["device"], dtype=dtype) for _ in range(2))
    seconds = min(run(Contest("product", lambda: a @ b), {**job, "repeats": _ROUNDS}).ours)
    return 2 * side**3 / seconds / 1e9


def _copy(job: Job) -> float:
    source = torch.ones(_BYTES[job["device"]], dtype=torch.uint8, device=job["device"])
    target = torch.empty_like(source)
    seconds = min(run(Contest("copy", lambda: target.copy_(source)), {**job, "repeats": _ROUNDS}).ours)
    return 2 * source.numel() / seconds / 1e9  # read and written
