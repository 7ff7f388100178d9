"""Folder layouts. To add one: write a module that calls `register_folder_layout`, and import it here."""

from __future__ import annotations

from . import dnanet, folder, pal, sirst3, sirst_v1, sirst_v2
from ._folder_dataset import FolderDataset, register_folder_layout
from ._parts import Parts
from ._registry import Layout, find_layout, list_layouts, register_layout

__all__ = [
    "FolderDataset",
    "Layout",
    "Parts",
    "dnanet",
    "find_layout",
    "folder",
    "list_layouts",
    "pal",
    "register_folder_layout",
    "register_layout",
    "sirst3",
    "sirst_v1",
    "sirst_v2",
]
