"""Options with one name and one meaning in every command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Folder of a dataset (SIRST v1 and v2, DNANet, SIRST3, PAL, or images/) or a packed .h5 file.",
        rich_help_panel="What",
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        help="full (trains on masks), lesps, pal (labels grown from points) or semantic-prior (with a "
        "teacher).",
        rich_help_panel="What",
    ),
]
Backbone = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="Detection network: mlclnet, alclnet, gglnet, mshnet, repisdnet, dnanet or sctransnet.",
        rich_help_panel="What",
    ),
]
SameBackbone = Annotated[
    str,
    typer.Option("--backbone", help="Refuse a checkpoint of another network.", rich_help_panel="What"),
]
VfmElsewhere = Annotated[
    str,
    typer.Option(
        "--vfm", help="Where the teacher's frozen model lies, if elsewhere now.", rich_help_panel="What"
    ),
]
Vfm = Annotated[
    str,
    typer.Option(
        "--vfm",
        help="Frozen vision foundation model of the teacher: a timm name, a weight file (ARCH:FILE), "
        "'random' (random weights, for trying things only) or 'none'.",
        rich_help_panel="What",
    ),
]
Hypergradient = Annotated[
    str,
    typer.Option(
        "--hypergradient",
        help="How cluster weights are learned: gauss-newton, unrolled, implicit, reference (the public "
        "code's update, for comparison) or off.",
        rich_help_panel="What",
    ),
]
Epochs = Annotated[
    int,
    typer.Option(
        "--epochs",
        min=1,
        help="Passes over the training images; phases scale with it.",
        rich_help_panel="Budget",
    ),
]
MethodEpochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        min=1,
        help="Passes over the training images; phases scale with it. "
        "Published: 300, lesps and pal 400 (default).",
        rich_help_panel="Budget",
    ),
]
Crop = Annotated[
    int,
    typer.Option("--crop", min=16, help="Side of the training crops, in pixels.", rich_help_panel="Budget"),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Crops per training step.", rich_help_panel="Budget")
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", help="Same seed, same machine: the same result, bit for bit.", rich_help_panel="Budget"
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to.", rich_help_panel="Where")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in --out from its last checkpoint; its own configuration counts. --data, "
        "--vfm and --device may be given anew if the run has moved.",
        rich_help_panel="Where",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel="Where")]
Layout = Annotated[
    str, typer.Option("--layout", help="The folder's layout, if none is recognised or several fit.")
]
MaskThreshold = Annotated[
    float | None,
    typer.Option("--mask-threshold", help="Cut masks with soft edges at this part of their maximum."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Run = Annotated[
    Path, typer.Argument(help="Run folder that `istd train` wrote, or a weight file in it.", metavar="RUN")
]
Role = Annotated[
    str | None,
    typer.Option(
        "--role",
        help="Whose answer: student (the deployed network) or teacher. Default: of a run the student's, "
        "of a weight file whose it is.",
        rich_help_panel="What",
    ),
]
Tile = Annotated[
    int,
    typer.Option(
        "--tile",
        min=0,
        help="Larger images are cut into overlapping tiles of this side; 0 takes every image whole.",
        rich_help_panel="How",
    ),
]
Overlap = Annotated[
    int,
    typer.Option("--overlap", min=0, help="Pixels that tiles share and blend.", rich_help_panel="How"),
]
Flips = Annotated[
    bool,
    typer.Option(
        "--tta", help="Average over the four mirror images; four times the work.", rich_help_panel="How"
    ),
]


def pack_command(folder: Path, layout: str = "", mask_threshold: float | None = None) -> str:
    """What to run so that training, which lacks these two options, can use a folder that needs them."""
    target = folder.expanduser().resolve()
    words = ["istd", "pack", str(folder), *(["--layout", layout] if layout else [])]
    words += [] if mask_threshold is None else ["--mask-threshold", str(mask_threshold)]
    train = ["istd", "train", "--data", str(target.with_name(f"{target.name}.h5"))]
    return f"{shlex.join(words)} && {shlex.join(train)}"
