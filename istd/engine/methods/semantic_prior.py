"""Learning with semantic priors (arXiv 2605.14346): modulated teacher, distilled student, cluster weights.

The bilevel problem, solved by `bilevel.Solver`:

    inner, over teacher and student, on training batches:
        mean[ w·(task(t, y) + 0.1·KD(s, t)) ] + 0.005·mean|gate|  (+ mean[ w·(task(s, y) + KD(s, t)) ])
    outer, over the cluster weights w, on held-out batches:
        mean[ task(s, y) + KD(s, t) ]

The paper's inner loss trains the teacher alone, and its code takes outer steps on the student's weights
too (`hypergradient="reference"` does so as well, see `reference_update.py`). Here outer steps move the
cluster weights only, and the student's own loss (the term in brackets, `student_weight`) is part of the
inner problem, so that the weights act in the very loss they are meant to correct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

import bilevel

from ..._batch_parts import current_parts
from ...losses import inner_loss, outer_loss
from ...models import TeacherStudent
from ..batches import TrainBatch
from ..config import TrainConfig
from .base import Method, make_optimizer
from .reference_update import ReferenceGaussNewton, ReferenceStep
from .registry import register_method


@register_method("semantic-prior")
class SemanticPrior(Method):
    """Teacher and student through `bilevel.Solver`, one weight per cluster of training images."""

    supervision: ClassVar[Literal["masks", "points"]] = "points"
    labeller: ClassVar[Literal["student", "teacher"]] = "teacher"
    has_teacher: ClassVar[bool] = True
    uses_clusters: ClassVar[bool] = True

    def __init__(self, config: TrainConfig, model: TeacherStudent, num_clusters: int) -> None:
        super().__init__(config, model)
        self.has_outer_problem = config.hypergradient != "off"
        self.as_reference = config.hypergradient == "reference"
        like = next(model.parameters())
        self.weights = bilevel.ClusterWeights(
            num_clusters, normalize="detached_mean" if self.as_reference else "mean"
        ).to(like)
        self.optimizer = make_optimizer(config, model)
        outer_kind = torch.optim.AdamW if self.as_reference else torch.optim.Adam
        self.outer_optimizer = outer_kind(self.weights.parameters(), lr=config.outer_lr)
        self.solver = bilevel.Solver(
            self.inner_loss,
            self.outer_loss,
            inner=model,
            outer=self.weights,
            inner_optimizer=self.optimizer,
            outer_optimizer=self.outer_optimizer,
            hypergradient=self._hypergradient_method(),
        )
        if self.as_reference:
            self.student_optimizer = torch.optim.AdamW(model.student.parameters(), lr=config.outer_lr)
            optimizers = (self.outer_optimizer, self.student_optimizer)
            self.reference_step = ReferenceStep(self.solver, model.student, optimizers)

    @classmethod
    def build(cls, config: TrainConfig, model: nn.Module, num_clusters: int) -> SemanticPrior:
        """What the loop calls to make one."""
        assert isinstance(model, TeacherStudent)
        return cls(config, model, num_clusters)

    def inner_loss(self, model: TeacherStudent, weights: bilevel.ClusterWeights, batch: TrainBatch) -> Tensor:
        """The inner loss of a training batch, a scalar: the teacher's, and the student's own."""
        config, kind = self.config, self.config.loss
        fixed: Literal["student"] | None = None if config.student_weight else "student"
        teacher, student = model(batch.image, batch.maps, fixed=fixed)
        w = _of_batch(weights, batch)
        gate = None if model.scam is None else model.scam.gate
        loss = inner_loss(
            teacher,
            student,
            batch.label,
            gate,
            w,
            kind=kind,
            kd_weight=config.distill_teacher,
            gate_weight=config.gate_l1,
            over_outputs=config.over_outputs,
        )
        if config.student_weight:
            own = outer_loss(student, teacher, batch.label, w, kind=kind, over_outputs=config.over_outputs)
            loss = loss + config.student_weight * own
        return loss

    def outer_loss(self, model: TeacherStudent, weights: bilevel.ClusterWeights, batch: TrainBatch) -> Tensor:
        """The student's loss on a held-out batch, unweighted: weights cannot lower it by looking away.

        The compatibility mode weighs it, as the public code does.
        """
        config = self.config
        teacher, student = model(batch.image, batch.maps, fixed="teacher")
        w = _of_batch(weights, batch) if self.as_reference else None
        return outer_loss(
            student, teacher, batch.label, w, kind=config.loss, over_outputs=config.over_outputs
        )

    def train_step(self, batch: TrainBatch) -> Tensor:
        """Take one inner step."""
        self.model.train()
        return self.solver.inner_update(batch)

    def outer_step(self, train: TrainBatch, val: TrainBatch) -> dict[str, float]:
        """Take one step on the cluster weights by the hypergradient, or as the public code does."""
        self.model.train()
        if self.as_reference:
            found = self.reference_step(train, val)
            return {"outer_loss": found.outer_loss.item(), "hypergradient_norm": found.norm().item()}
        info = self.solver.outer_step(train, val)
        assert info.outer_loss is not None
        assert info.hypergradient_norm is not None
        record = {"outer_loss": info.outer_loss, "hypergradient_norm": info.hypergradient_norm}
        for solve in info.linear_solves:
            record["ihvp_residual"] = solve.residual
            record["ihvp_iterations"] = float(solve.iterations)
            record["ihvp_negative_curvature"] = float(solve.negative_curvature)
        return record

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the inner optimiser."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """The spread of the weights over all clusters."""
        logits = self.weights.logits
        values = self.weights(torch.arange(len(logits), device=logits.device))
        return {"weight_min": float(values.min()), "weight_max": float(values.max())}

    def state_dict(self) -> dict[str, Any]:
        """The solver's state (both modules, both optimisers, counters), and the student's outer optimiser."""
        state = {"solver": self.solver.state_dict()}
        if self.as_reference:
            state["student_optimizer"] = self.student_optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` gave."""
        self.solver.load_state_dict(state["solver"])
        if self.as_reference:
            self.student_optimizer.load_state_dict(state["student_optimizer"])

    def _hypergradient_method(self) -> bilevel.HypergradientMethod:
        """The method named by `--hypergradient`; `off` gets one that is never called."""
        config = self.config
        match config.hypergradient:
            case "unrolled":
                return bilevel.Unrolled(steps=config.unroll_steps)
            case "implicit":
                # A network in the middle of training has indefinite curvature: without much damping conjugate
                # gradient meets it in its first steps and (rightly) stops.
                solver = bilevel.ConjugateGradient(
                    max_iterations=20, tolerance=1e-3, damping=config.implicit_damping
                )
                return bilevel.Implicit(solver)
            case "reference":
                return ReferenceGaussNewton(lambda: self.optimizer.param_groups[0]["lr"])
            case _:
                return bilevel.GaussNewton()


def _of_batch(weights: bilevel.ClusterWeights, batch: TrainBatch) -> Tensor:
    """The weights of a batch's images, [B]; they are normalised over the whole batch where this is a part."""
    parts = current_parts()
    return parts.own(weights(parts.joined(batch.cluster)))
