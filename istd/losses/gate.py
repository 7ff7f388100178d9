"""The pull on SCAM's gate (arXiv 2605.14346)."""

from __future__ import annotations

from torch import Tensor


def gate_penalty(gate: Tensor) -> Tensor:
    """mean |gate|, a scalar: channels that gain nothing from the foundation model close."""
    return gate.abs().mean()
