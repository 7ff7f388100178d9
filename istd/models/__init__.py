"""Detection networks, the frozen foundation model, SCAM, and teacher and student."""

from __future__ import annotations

from .alclnet import ALCLNet
from .backbone import Backbone, FeatureInfo, Modulate
from .dnanet import DNANet
from .gglnet import GGLNet
from .mlclnet import MLCLNet
from .modulation import MODULATION_SCALES, Modulation, modulation_scale
from .mshnet import MSHNet
from .output import DeepOutput, Output, all_logits, detach, final_logits
from .reference import convert_reference_scam, convert_reference_state_dict
from .registry import create_model, list_models, register_model
from .repisdnet import RepISDNet
from .scam import SCAM
from .sctransnet import SCTransNet
from .teacher_student import (
    Coupling,
    ModulationPlace,
    Role,
    TeacherStudent,
    TeacherStudentOutput,
    create_teacher_student,
)
from .vfm import DEFAULT_VFM, FrozenVFM, create_vfm
from .vfm_cache import CacheReport, VFMCache

__all__ = [
    "DEFAULT_VFM",
    "MODULATION_SCALES",
    "SCAM",
    "ALCLNet",
    "Backbone",
    "CacheReport",
    "Coupling",
    "DNANet",
    "DeepOutput",
    "FeatureInfo",
    "FrozenVFM",
    "GGLNet",
    "MLCLNet",
    "MSHNet",
    "Modulate",
    "Modulation",
    "ModulationPlace",
    "Output",
    "RepISDNet",
    "Role",
    "SCTransNet",
    "TeacherStudent",
    "TeacherStudentOutput",
    "VFMCache",
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
