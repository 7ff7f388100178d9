"""Finds what is wrong with a dataset."""

from __future__ import annotations

from .diagnose import diagnose
from .finding import SEVERITIES, Finding, Report, Severity

__all__ = ["SEVERITIES", "Finding", "Report", "Severity", "diagnose"]
