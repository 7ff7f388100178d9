"""One self-contained HTML page that compares runs."""

from __future__ import annotations

from .collect import RunSummary, read_run
from .page import render_report, write_report

__all__ = ["RunSummary", "read_run", "render_report", "write_report"]
