"""`istd export`: a trained detector as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt

if TYPE_CHECKING:
    from ..export import Deployed

_SUFFIX = {"onnx": ".onnx", "torchscript": ".pt"}


def export(
    run: opt.Run,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File to write. Default: NETWORK.onnx or NETWORK.pt in the run's folder.",
            rich_help_panel="Where",
        ),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="onnx or torchscript.", rich_help_panel="What")
    ] = "onnx",
    role: Annotated[
        str | None,
        typer.Option("--role", help="Only the student can be exported.", rich_help_panel="What"),
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="Answer logits instead of probabilities.", rich_help_panel="What")
    ] = False,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", min=0.0, max=1.0, help="Noted in the file for its users.", rich_help_panel="What"
        ),
    ] = 0.5,
    backbone: opt.SameBackbone = "",
    exporter: Annotated[
        str,
        typer.Option(
            "--exporter", help="Of ONNX: trace (seconds) or dynamo (a minute).", rich_help_panel="How"
        ),
    ] = "trace",
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Compare with PyTorch at several sizes.", rich_help_panel="How"
        ),
    ] = True,
) -> None:
    """Write the student as ONNX or TorchScript: from images in gray, 0 to 1, to probabilities.

    Images are float32, batch × 1 × height × width, of any batch and size; padding and normalisation are
    inside. Class names, input range, threshold and versions stand in the file. It is checked against PyTorch
    before it takes its name.
    """
    from ..engine import RunFolder, load_detector
    from ..export import Deployed, describe

    _refuse(format, role, run)
    console = Console()
    detector = load_detector(run, role="student", device="cpu", backbone=backbone or None)
    network = Deployed(detector.backbone, "logits" if logits else "probability")
    target = out or RunFolder.of(run).root / f"{detector.backbone.name}{_SUFFIX[format]}"
    about = describe(detector.backbone, detector.header, threshold, network.output)
    with console.status(f"exporting {detector.backbone.name}"):
        found = _write(network, target, about, format, exporter, check)
    console.print(f"written: {escape(str(target))}", highlight=False, soft_wrap=True)
    console.print(found)


def _refuse(format: str, role: str | None, run: Path) -> None:
    from ..engine import choose_role
    from ..errors import ConfigError

    if format not in _SUFFIX:
        raise ConfigError("--format is unknown", found=format, expected=" | ".join(_SUFFIX))
    if choose_role(run, role) != "student":
        raise ConfigError(
            "only the student can be exported",
            found=role or run.name,
            expected="student",
            fix="leave --role away: the teacher needs its frozen foundation model, whose weights are not "
            "part of a run; the student is the network that is made to be deployed",
        )


def _write(
    network: Deployed, target: Path, about: dict[str, Any], format: str, exporter: str, check: bool
) -> str:
    """Write `target`, whole and checked or not at all; a line that says how well it agrees."""
    from .._files import atomic_path
    from ..export import check_onnx, check_torchscript, export_onnx, export_torchscript

    with atomic_path(target) as partial:
        if format == "onnx":
            export_onnx(network, partial, about, exporter)  # type: ignore[arg-type]  # checked there
        else:
            export_torchscript(network, partial, about)
        if not check:
            return "not compared with PyTorch"
        parity = (check_onnx if format == "onnx" else check_torchscript)(network, partial)
    shapes = ", ".join("×".join(map(str, shape)) for shape in parity.shapes)
    runtime = "onnxruntime" if format == "onnx" else "TorchScript"
    return (
        f"{runtime} agrees with PyTorch to {parity.share:.1e} of the range of logits at {shapes} "
        "(batch×height×width)"
    )
