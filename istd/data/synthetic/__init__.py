"""Synthetic infrared scenes with small targets."""

from __future__ import annotations

from .backgrounds import BACKGROUNDS
from .dataset import SyntheticDataset
from .measure import TargetMeasure, measure_targets
from .scene import Scene, SceneSettings, Target, make_scene
from .targets import KINDS, draw_profile
from .writing import TREES, write_synthetic

__all__ = [
    "BACKGROUNDS",
    "KINDS",
    "TREES",
    "Scene",
    "SceneSettings",
    "SyntheticDataset",
    "Target",
    "TargetMeasure",
    "draw_profile",
    "make_scene",
    "measure_targets",
    "write_synthetic",
]
