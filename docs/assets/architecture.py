"""Draw architecture.svg, the picture of docs/architecture.md: `python docs/assets/architecture.py`."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

BLUE, GREEN, GRAY, LINE = "#e3eafc", "#e1f3e6", "#f1f1f1", "#44506b"

FLOW = [  # x, y, width, what, what it does, colour
    (20, 70, 150, "images and points", "a folder, or clicks", GRAY),
    (210, 70, 170, "istd.data", "layout → packed file → crops", BLUE),
    (440, 70, 200, "istd.models", "backbone · frozen VFM · SCAM", BLUE),
    (20, 190, 150, "labels.h5", "every version, by epoch", GRAY),
    (210, 190, 170, "istd.labels", "start · evolve · mine", BLUE),
    (440, 190, 200, "istd.engine.methods", "one step on a batch", BLUE),
    (210, 310, 170, "istd.clusters", "descriptors → k-means", BLUE),
    (440, 310, 200, "bilevel.Solver", "inner step · hypergradient", GREEN),
    (20, 430, 150, "run folder", "checkpoints · results.json", GRAY),
    (210, 430, 170, "istd.metrics", "IoU · nIoU · Pd · Fa", BLUE),
    (440, 430, 200, "istd.engine.detector", "what is kept and deployed", BLUE),
    (440, 530, 200, "istd.cli", "eval · predict · export · report", BLUE),
]
ARROWS = [  # corners of a line that ends in an arrow
    [(170, 98), (210, 98)],
    [(380, 88), (420, 88), (420, 205), (440, 205)],
    [(380, 110), (405, 110), (405, 330), (380, 330)],
    [(295, 126), (295, 190)],
    [(540, 126), (540, 190)],
    [(170, 212), (210, 212)],
    [(210, 226), (170, 226)],
    [(380, 222), (440, 222)],
    [(440, 238), (380, 238)],
    [(380, 346), (440, 346)],
    [(525, 246), (525, 310)],
    [(555, 310), (555, 246)],
    [(640, 218), (662, 218), (662, 458), (640, 458)],
    [(440, 458), (380, 458)],
    [(210, 458), (170, 458)],
    [(540, 486), (540, 530)],
]
NOTES = [  # x, y, text
    (300, 163, "images, points"),
    (546, 163, "network"),
    (410, 259, "predictions"),
    (424, 150, "crops"),
    (384, 364, "cluster"),
    (560, 283, "loss, weights"),
    (384, 449, "logits"),
]
LAYERS = [  # each may import what lies below it, and bilevel where it is from istd
    ("istd", BLUE, "cli"),
    ("istd", BLUE, "annotate   doctor   export   report"),
    ("istd", BLUE, "engine"),
    ("istd", BLUE, "losses   viz"),
    ("istd", BLUE, "labels"),
    ("istd", BLUE, "clusters   data   metrics   models   targets"),
    ("istd", BLUE, "errors, files, regions, images of many sizes"),
    ("bilevel", GREEN, "diagnostics   training"),
    ("bilevel", GREEN, "solver"),
    ("bilevel", GREEN, "reweighting"),
    ("bilevel", GREEN, "hypergradients"),
    ("bilevel", GREEN, "linear_solvers"),
    ("bilevel", GREEN, "optim, problem, batches, errors"),
]


def text(
    x: float, y: float, words: str, size: int = 12, anchor: str = "start", weight: str = "normal"
) -> str:
    """One line of words."""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#1c2333" xml:space="preserve">{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A rounded rectangle."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{colour}" stroke="{LINE}" '
        'stroke-width="1"/>'
    )


def draw() -> str:
    """The picture as SVG."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 640" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>',
        '<rect width="1060" height="640" fill="#ffffff"/>',
        text(20, 36, "What flows in a training run", 16, weight="bold"),
        text(700, 36, "Who imports whom: what lies below", 16, weight="bold"),
    ]
    for corners in ARROWS:
        line = " ".join(f"{x},{y}" for x, y in corners)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="1.4" '
            'marker-end="url(#tip)"/>'
        )
    for x, y, width, name, does, colour in FLOW:
        parts += [box(x, y, width, 56, colour), text(x + width / 2, y + 24, name, 13, "middle", "bold")]
        parts.append(text(x + width / 2, y + 43, does, 11, "middle"))
    parts += [text(x, y, words, 11) for x, y, words in NOTES]
    for number, (package, colour, names) in enumerate(LAYERS):
        y = 56 + 43 * number + (12 if package == "bilevel" else 0)
        parts += [box(700, y, 340, 34, colour), text(710, y + 22, package, 11), text(765, y + 22, names, 12)]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
