"""Labels from points: how they start, how they evolve, which images join, and where they are kept."""

from __future__ import annotations

from ._initial import (
    InitialLabels,
    initialization_settings,
    initialize,
    list_initializations,
    register_initialization,
)
from .calibrate import Calibration, calibrate
from .canny import CannySettings
from .contrast import ContrastSettings
from .evolution import EvolutionSettings, evolve, from_uint8, kept_regions, to_uint8
from .following import evolve_both_ways
from .levels import LevelsSettings
from .mining import (
    REFERENCE_MINING,
    Agreement,
    MiningSettings,
    compare_with_points,
    is_selected,
    merge_with_points,
    missed_bound,
)
from .point import PointSettings
from .quality import VersionQuality, quality_by_version
from .sparse import SparseLabel, SparseLabels
from .store import LabelStore, Version

__all__ = [
    "REFERENCE_MINING",
    "Agreement",
    "Calibration",
    "CannySettings",
    "ContrastSettings",
    "EvolutionSettings",
    "InitialLabels",
    "LabelStore",
    "LevelsSettings",
    "MiningSettings",
    "PointSettings",
    "SparseLabel",
    "SparseLabels",
    "Version",
    "VersionQuality",
    "calibrate",
    "compare_with_points",
    "evolve",
    "evolve_both_ways",
    "from_uint8",
    "initialization_settings",
    "initialize",
    "is_selected",
    "kept_regions",
    "list_initializations",
    "merge_with_points",
    "missed_bound",
    "quality_by_version",
    "register_initialization",
    "to_uint8",
]
