"""Detection networks, the frozen foundation model, SCAM, and teacher and student."""

from __future__ import annotations

from .alclnet import ALCLNet
from .backbone import Backbone, FeatureInfo, Modulate
from .mlclnet import MLCLNet
from .modulation import MODULATION_SCALES, Modulation, modulation_scale
from .output import DeepOutput, Output, all_logits, detach, final_logits
from .reference import convert_reference_scam, convert_reference_state_dict
from .registry import create_model, list_models, register_model
from .scam import SCAM
from .teacher_student import (
    Coupling,
    ModulationPlace,
    Role,
    TeacherStudent,
    TeacherStudentOutput,
    create_teacher_student,
)
from .vfm import DEFAULT_VFM, FrozenVFM, create_vfm

__all__ = [
    "DEFAULT_VFM",
    "MODULATION_SCALES",
    "SCAM",
    "ALCLNet",
    "Backbone",
    "Coupling",
    "DeepOutput",
    "FeatureInfo",
    "FrozenVFM",
    "MLCLNet",
    "Modulate",
    "Modulation",
    "ModulationPlace",
    "Output",
    "Role",
    "TeacherStudent",
    "TeacherStudentOutput",
    "all_logits",
    "convert_reference_scam",
    "convert_reference_state_dict",
    "create_model",
    "create_teacher_student",
    "create_vfm",
    "detach",
    "final_logits",
    "list_models",
    "modulation_scale",
    "register_model",
]
