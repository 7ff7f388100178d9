"""Folder layouts. To add one: write a module that calls `register_layout`, and import it here."""

from __future__ import annotations

from . import folder, sirst_v1
from ._registry import Layout, find_layout, list_layouts, register_layout

__all__ = ["Layout", "find_layout", "folder", "list_layouts", "register_layout", "sirst_v1"]
