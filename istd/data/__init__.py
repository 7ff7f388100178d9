"""Images, masks and points: reading, making, packing, cropping."""

from __future__ import annotations

from ._imagefile import IMAGE_SUFFIXES, read_gray, read_mask
from ._record import DataWarning, Record
from .augmentation import AugmentSettings, augment
from .dataset import SPLITS, Dataset
from .distractors import distractors_of, find_distractors
from .imageset import ImageSet, load_names, load_split
from .layouts import Layout, Parts, list_layouts, register_folder_layout, register_layout
from .loader import Batch, CropLoader
from .opening import open_dataset
from .packed import VERSION as PACKED_VERSION
from .packed import PackedDataset
from .packing import pack
from .pointfiles import read_point_image, read_points, write_point_image, write_points
from .points import centroid_points, coarse_points, point_rng
from .resplit import Resplit
from .streamed import StreamedImages
from .synthetic import (
    Scene,
    SceneSettings,
    SyntheticDataset,
    make_scene,
    measure_targets,
    write_synthetic,
)

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
    "Parts",
    "Record",
    "Resplit",
    "Scene",
    "SceneSettings",
    "StreamedImages",
    "SyntheticDataset",
    "augment",
    "centroid_points",
    "coarse_points",
    "distractors_of",
    "find_distractors",
    "list_layouts",
    "load_names",
    "load_split",
    "make_scene",
    "measure_targets",
    "open_dataset",
    "pack",
    "point_rng",
    "read_gray",
    "read_mask",
    "read_point_image",
    "read_points",
    "register_folder_layout",
    "register_layout",
    "write_point_image",
    "write_points",
    "write_synthetic",
]
