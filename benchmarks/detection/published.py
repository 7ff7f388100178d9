"""Figures that others published, to stand beside ours. Their protocols differ, from each other too."""

from __future__ import annotations

from dataclasses import dataclass

from .presets import PAL_PUBLISHED


@dataclass(frozen=True)
class Published:
    """One row of somebody's table, in percent; Fa times 1e6. None where it is not given."""

    iou: float
    niou: float | None = None
    pd: float | None = None
    fa: float | None = None


PAPER = "Table 1 of arXiv 2605.14346, trained and tested on SIRST3"
PAL_README = "README of PAL (ICCV 2025), trained and tested on SIRST v1, 213 / 214 images, centroid points"

# PAL's figures are of the start that it published: "pal" begins with ours.
_ROWS = ("full", "lesps", PAL_PUBLISHED, "semantic-prior, teacher", "semantic-prior, student")

_PAPER = {
    "alclnet": "79.20/82.01/96.81/15.23 29.12/40.52/68.57/34.33 51.11/59.49/91.43/30.18 "
    "54.99/61.26/93.49/27.48 53.00/60.24/91.50/27.60",
    "gglnet": "80.74/83.63/96.15/11.03 38.98/49.09/73.02/32.71 58.55/65.62/93.16/27.85 "
    "59.14/66.03/93.69/23.68 58.90/65.69/93.23/24.86",
    "mlclnet": "79.13/82.76/95.88/23.37 36.54/48.30/86.91/34.18 60.20/66.86/93.29/28.75 "
    "65.10/69.68/94.68/27.49 62.63/67.28/94.49/27.22",
    "mshnet": "80.80/82.67/96.54/11.73 39.62/51.26/74.62/36.18 61.66/65.26/91.16/22.29 "
    "62.24/66.50/94.02/18.00 62.36/66.26/93.36/20.52",
    "repisdnet": "78.34/82.18/96.08/21.95 35.85/47.63/72.29/40.76 58.27/62.28/92.77/28.62 "
    "64.19/69.00/95.48/24.86 59.47/64.56/92.96/26.99",
    "dnanet": "82.30/85.38/96.08/7.67 38.50/49.41/71.96/29.07 62.67/68.22/92.89/17.59 "
    "63.09/69.42/95.15/16.18 62.81/68.54/94.62/16.68",
    "sctransnet": "81.96/84.97/97.21/20.59 37.38/46.78/75.48/35.18 65.95/68.57/93.49/21.24 "
    "69.08/70.07/95.48/19.96 66.91/69.69/94.09/20.90",
}
_PAL = {
    "alclnet": (72.22, 35.56, 65.10),
    "mlclnet": (74.68, 32.69, 67.64),
    "dnanet": (76.40, 16.89, 66.16),
    "gglnet": (75.47, 54.85, 64.79),
}

PUBLISHED: dict[str, dict[tuple[str, str], Published]] = {
    PAPER: {
        (backbone, row): Published(*map(float, figures.split("/")))
        for backbone, line in _PAPER.items()
        for row, figures in zip(_ROWS, line.split(), strict=True)
    },
    PAL_README: {
        (backbone, row): Published(iou)
        for backbone, figures in _PAL.items()
        for row, iou in zip(_ROWS[:3], figures, strict=True)
    },
}
"""Source → (backbone, row of our table) → figures."""
