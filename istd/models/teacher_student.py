"""Teacher and student of hierarchical knowledge distillation (arXiv 2605.14346, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .backbone import Backbone
from .modulation import Modulation, modulation_scale
from .output import Output, detach, final_logits
from .registry import create_model
from .scam import SCAM
from .vfm import FrozenVFM

Coupling: TypeAlias = Literal["shared", "separate"]
ModulationPlace: TypeAlias = Literal["head", "cascade"]
Role: TypeAlias = Literal["teacher", "student"]


class TeacherStudentOutput(NamedTuple):
    """Logits of both, [B, 1, H, W] each (or `DeepOutput`)."""

    teacher: Output
    student: Output


class TeacherStudent(nn.Module):
    """A student, the plain backbone, and a teacher, a backbone modulated by SCAM.

    The foundation model is not in here: its hidden maps are an input, so its weights are in no
    `state_dict`, in no optimiser, and may come from a cache.

    `coupling`:
    - "shared": one CNN serves both, as in the public code.
    - "separate": two CNNs, as in the paper's figure, starting from equal weights so that distillation
      starts from agreement.

    `modulation`:
    - "head": the finished stage maps are modulated, then the head runs, as in the public code.
    - "cascade": each stage's map is modulated before the next stage sees it, as in the paper's figure.

    With a shared CNN and head modulation both roles have the same stage maps. `forward` then computes them
    once, and their batch normalisation sees each batch once; layers of batch normalisation inside a head
    (ALCL-Net) still see it twice, modulated and not, and average over both. So do all layers with a shared
    CNN and cascade modulation. "separate" mixes nothing.

    Args:
        backbone: a registered name, a backbone, or the pair (teacher's, student's). A pair is only for
            "separate"; otherwise the backbone is the student's, and a separate teacher gets a copy of it.
        scam: made for this backbone's stage channels, or None for a teacher without a foundation model,
            whose logits are its backbone's.
        coupling, modulation: see above.
        **kwargs: passed to `create_model` when `backbone` is a name.

    Attributes:
        student: the student's CNN; `student(x)` is the deployed detector.
        teacher_cnn: the teacher's own CNN, None when shared.
        scam: the modulator, or None.

    Raises:
        ModelError: if the parts do not fit or an option is unknown.
    """

    def __init__(
        self,
        backbone: str | Backbone | Sequence[Backbone],
        scam: SCAM | None,
        coupling: Coupling = "shared",
        modulation: ModulationPlace = "head",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        _check_option("coupling", coupling, ("shared", "separate"))
        _check_option("modulation", modulation, ("head", "cascade"))
        teacher, student = _backbones(backbone, coupling, kwargs)
        if scam is not None and scam.stage_channels != teacher.stage_channels:
            raise ModelError(
                "SCAM was made for another backbone",
                found=scam.stage_channels,
                expected=teacher.stage_channels,
            )
        self.coupling = coupling
        self.modulation = modulation
        self.student = student
        # A shared CNN is registered once, so that no key is twice in a state_dict.
        self.teacher_cnn = None if teacher is student else teacher
        self.scam = scam

    def forward(
        self, x: Tensor, maps: Tensor | None = None, fixed: Role | None = None
    ) -> TeacherStudentOutput:
        """Logits of teacher and student for one batch.

        Args:
            x: images [B, 1 or in_chans, H, W].
            maps: hidden maps [B, K, d, h, w] of the foundation model; None only without SCAM.
            fixed: whose logits to treat as constants: "student" in the inner loss, "teacher" in the outer
                loss. Their value is the same; what only they need runs without a graph.
        """
        _check_option("fixed", fixed, (None, "teacher", "student"))
        size = (x.shape[-2], x.shape[-1])
        if self.teacher_cnn is None and (self.modulation == "head" or self.scam is None):
            features = self.student.forward_features(x)

            def plain() -> Output:
                return self.student.forward_head(features, size)

            if self.scam is None:
                output = plain()
                return TeacherStudentOutput(
                    detach(output) if fixed == "teacher" else output,
                    detach(output) if fixed == "student" else output,
                )

            def modulated() -> Output:
                return self.student.forward_head(self._modulation(maps).apply(features), size)

            return TeacherStudentOutput(_run(modulated, fixed == "teacher"), _run(plain, fixed == "student"))
        return TeacherStudentOutput(
            _run(lambda: self.teacher(x, maps), fixed == "teacher"),
            _run(lambda: self.student(x), fixed == "student"),
        )

    def teacher(self, x: Tensor, maps: Tensor | None = None) -> Output:
        """The teacher's answer alone, [B, 1, H, W] or `DeepOutput`. (The student's is `student(x)`.)"""
        cnn, size = self.teacher_cnn or self.student, (x.shape[-2], x.shape[-1])
        if self.scam is None:
            return cnn(x)
        modulation = self._modulation(maps)
        if self.modulation == "cascade":
            return cnn.forward_head(cnn.forward_features(x, modulation), size)
        return cnn.forward_head(modulation.apply(cnn.forward_features(x)), size)

    def teacher_logits(self, x: Tensor, maps: Tensor | None = None) -> Tensor:
        """The teacher's final logits [B, 1, H, W]."""
        return final_logits(self.teacher(x, maps))

    def student_logits(self, x: Tensor) -> Tensor:
        """The student's final logits [B, 1, H, W]."""
        return final_logits(self.student(x))

    def _modulation(self, maps: Tensor | None) -> Modulation:
        if self.scam is None or maps is None:
            raise ModelError("the teacher needs the hidden maps of its foundation model", found=None)
        return self.scam(maps)


def create_teacher_student(
    backbone: str,
    vfm: FrozenVFM | None,
    *,
    coupling: Coupling = "shared",
    modulation: ModulationPlace = "head",
    hidden_dim: int = 128,
    scale: float | None = None,
    **kwargs: Any,
) -> TeacherStudent:
    """Build a backbone by name, a SCAM that fits it and the foundation model, and join them.

    Args:
        backbone: one of `list_models()`.
        vfm: only its sizes are used; None for a teacher without a foundation model.
        coupling: "shared" or "separate"; see `TeacherStudent`.
        modulation: "head" or "cascade"; see `TeacherStudent`.
        hidden_dim: width of SCAM's MLP.
        scale: s; by default the backbone's (`MODULATION_SCALES`).
        **kwargs: passed to `create_model`.
    """
    cnn = create_model(backbone, **kwargs)
    scam = None
    if vfm is not None:
        scale = modulation_scale(cnn.name) if scale is None else scale
        scam = SCAM(vfm.embed_dim, vfm.num_layers, cnn.stage_channels, hidden_dim, scale=scale)
    return TeacherStudent(cnn, scam, coupling, modulation)


def _run(role: Callable[[], Output], fixed: bool) -> Output:
    if not fixed:
        return role()
    with torch.no_grad():
        output = role()
    return detach(output)  # no_grad does not stop forward-mode tangents; detaching does


def _backbones(
    backbone: str | Backbone | Sequence[Backbone], coupling: Coupling, kwargs: dict[str, Any]
) -> tuple[Backbone, Backbone]:
    """(teacher's, student's)."""
    if isinstance(backbone, str):
        backbone = create_model(backbone, **kwargs)
    elif kwargs:
        raise ModelError("network arguments need a network's name, not a network", found=", ".join(kwargs))
    if isinstance(backbone, Backbone):
        return (backbone if coupling == "shared" else copy.deepcopy(backbone)), backbone
    if coupling == "shared" or len(backbone) != 2:
        raise ModelError(
            "a shared CNN is one backbone, separate ones are a pair",
            found=f"{len(backbone)} backbones for coupling={coupling!r}",
        )
    teacher, student = backbone
    if teacher is student:
        raise ModelError("separate CNNs cannot be the same object", fix="copy one, or use coupling='shared'")
    return teacher, student


def _check_option(option: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ModelError(f"unknown {option}", found=repr(value), expected=f"one of {list(allowed)}")
