"""Errors that a user of `bilevel` can act on: what was wrong, where, what was expected, how to mend it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class BilevelError(Exception):
    """Base of every error that `bilevel` raises on purpose.

    Args:
        problem: one sentence that says what is wrong.
        where: the loss, module, optimiser or option it concerns.
        found: what was met.
        expected: what would have been right.
        fix: what the user can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = where
        self.found = found
        self.expected = expected
        self.fix = fix
        parts = [problem if where is None else f"{where}: {problem}"]
        if found is not None:
            parts.append(f"  found:    {found}")
        if expected is not None:
            parts.append(f"  expected: {expected}")
        if fix is not None:
            parts.append(f"  mend:     {fix}")
        super().__init__("\n".join(parts))


class OptionError(BilevelError, ValueError):
    """An option, or a combination of options, that makes no sense."""


class BatchError(BilevelError):
    """A batch, or a sequence of batches, that cannot be told apart or has the wrong length."""


class ParameterError(BilevelError):
    """A module that offers no trainable parameter where some are needed."""


class LossError(BilevelError):
    """A loss that cannot be differentiated as it is."""


class NotScalarLossError(LossError):
    """A loss that is not one floating-point number in a tensor."""


class IndependentLossError(LossError):
    """A loss, or both losses, that do not depend on the parameters they should depend on."""


class NonFiniteError(BilevelError):
    """A number that must be finite and is not."""


class NonFiniteLossError(NonFiniteError, LossError):
    """A loss, or the gradient of the inner loss, that is NaN or infinite."""


class NonFiniteHypergradientError(NonFiniteError):
    """A hypergradient that holds NaN or infinity; the parameters were not touched."""


class DoubleBackwardError(LossError):
    """The inner loss uses an operator that cannot be differentiated twice."""


class NoForwardModeError(LossError):
    """The inner loss uses an operator that has no forward mode, or whose backward pass has none."""


class InPlaceError(LossError):
    """An in-place operation overwrote a value that differentiation still needs."""


class CheckpointError(LossError):
    """A module under activation checkpointing of the reentrant kind, which torch.autograd.grad refuses."""


class OptimizerError(BilevelError):
    """An optimiser that cannot be used here."""


class UnsupportedOptimizerError(OptimizerError):
    """An optimiser for which there is no differentiable update rule."""


class OwnershipError(OptimizerError):
    """An optimiser that does not hold exactly the parameters it should update."""


class StateError(BilevelError):
    """A saved state that does not belong to this solver."""


class MissingDependencyError(BilevelError, ImportError):
    """An optional package that is needed here is not installed."""


class LinearSolveWarning(UserWarning):
    """A linear solve met negative curvature or diverged, so the hypergradient may mislead."""


_NO_SECOND_DERIVATIVE = (
    "derivative for",
    "trying to differentiate twice",
    "once_differentiable",
    "double backward",
    "double backwards",
)
_IN_PLACE = ("modified by an inplace operation", "used in an in-place operation", "modified in-place")


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn autograd's own failures inside the block into errors that name the loss and the way out."""
    try:
        yield
    except BilevelError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        message = str(error)
        if "use_reentrant=True" in message:
            raise CheckpointError(
                "a module in it is under activation checkpointing of the reentrant kind",
                where=where,
                found=message.splitlines()[0],
                fix="call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
            ) from error
        if any(sign in message for sign in _IN_PLACE):
            raise InPlaceError(
                "an in-place operation overwrote a value that its derivative needs",
                where=where,
                found=message.splitlines()[0],
                fix="write `x = x + y` for `x += y`, and nn.ReLU(inplace=False), in the modules of this loss",
            ) from error
        if any(sign in message.lower() for sign in _NO_SECOND_DERIVATIVE):
            raise DoubleBackwardError(
                "an operator in it has no second derivative",
                where=where,
                found=message.splitlines()[0],
                fix="replace the operator (in attention by sdpa_kernel(SDPBackend.MATH); no "
                "torch.compile inside the loss), or use GaussNewton, which needs first derivatives only",
            ) from error
        raise
