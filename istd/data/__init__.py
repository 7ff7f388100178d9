"""Images, masks and points: reading, making, packing, cropping."""

from __future__ import annotations

from ._imagefile import IMAGE_SUFFIXES, read_gray, read_mask
from ._record import DataWarning, Record
from .augmentation import AugmentSettings, augment
from .dataset import SPLITS, Dataset
from .imageset import ImageSet, load_names, load_split
from .layouts import Layout, list_layouts, register_layout
from .loader import Batch, CropLoader
from .opening import open_dataset
from .packed import VERSION as PACKED_VERSION
from .packed import PackedDataset
from .packing import pack
from .points import centroid_points
from .synthetic import Scene, SceneSettings, SyntheticDataset, make_scene, measure_targets

__all__ = [
    "IMAGE_SUFFIXES",
    "PACKED_VERSION",
    "SPLITS",
    "AugmentSettings",
    "Batch",
    "CropLoader",
    "DataWarning",
    "Dataset",
    "ImageSet",
    "Layout",
    "PackedDataset",
    "Record",
    "Scene",
    "SceneSettings",
    "SyntheticDataset",
    "augment",
    "centroid_points",
    "list_layouts",
    "load_names",
    "load_split",
    "make_scene",
    "measure_targets",
    "open_dataset",
    "pack",
    "read_gray",
    "read_mask",
    "register_layout",
]
