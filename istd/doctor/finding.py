"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""From worst to best."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        severity: 'error' (the data cannot be used as they are, or a result on them would be worthless),
            'warning' (usable, but look at it), or 'info'.
        check: which check found it, for example 'mask-size'.
        message: one sentence.
        names: the images it concerns, or files where there is no image; may be empty.
        details: one short text for each of `names`, or empty.
        mend: what to do about it; empty where there is nothing to do.
    """

    severity: Severity
    check: str
    message: str
    names: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    mend: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "severity": self.severity,
            "check": self.check,
            "message": self.message,
            "names": list(self.names),
            "details": list(self.details),
            "mend": self.mend,
        }


@dataclass(frozen=True)
class Report:
    """All findings on one dataset.

    Attributes:
        path: what was looked at.
        layout: its layout's name.
        splits: split → number of names listed.
        findings: worst first, in the order of the checks.
    """

    path: Path
    layout: str
    splits: dict[str, int]
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "path": str(self.path),
            "layout": self.layout,
            "splits": self.splits,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [finding.to_dict() for finding in self.findings],
        }
