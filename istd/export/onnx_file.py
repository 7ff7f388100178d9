"""ONNX files with symbolic batch, height and width, by either of torch's exporters.

"trace" is the TorchScript-based exporter: it takes seconds, and the tests try it on every backbone. "dynamo"
is the one built on torch.export, torch's own default since 2.9: the same answers, after a minute or more of
compilation for these networks (MLCLNet 43 s against 3 s, DNANet 143 s against 10 s, on a busy machine).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from .._files import atomic_path
from ..errors import ConfigError, ModelError
from ._deployed import INPUT, METADATA_KEY, Deployed

Exporter: TypeAlias = Literal["trace", "dynamo"]

_EXAMPLE = (2, 1, 32, 48)
"""Of the example image; all but the channel become symbols, and 1 would be taken for a constant."""
_OPSET = 18


def export_onnx(
    network: Deployed, path: str | Path, about: dict[str, Any], exporter: Exporter = "trace"
) -> None:
    """Write one self-contained ONNX file, whole or not at all.

    Args:
        network: what to write.
        path: the file.
        about: goes into the file's metadata as JSON under the key "istd" (`istd.export.describe`).
        exporter: see above.

    Raises:
        ConfigError: the packages of the extra `export` are missing, or an unknown exporter.
        ModelError: torch cannot export this network.
        WriteError: the disk refused.
    """
    require_onnx()
    if exporter not in get_args(Exporter):
        raise ConfigError("--exporter is unknown", found=exporter, expected=" | ".join(get_args(Exporter)))
    import onnx

    example = torch.rand(_EXAMPLE, generator=torch.Generator().manual_seed(0))
    try:
        with _quiet():
            model = (_trace if exporter == "trace" else _dynamo)(network, example)
    except Exception as error:  # the exporters have no error class that covers all of their stages
        raise ModelError(
            "the network cannot be exported to ONNX",
            where=network.backbone.name,
            found=(str(error).strip() or type(error).__name__).splitlines()[0],
            fix="try the other --exporter, or --format torchscript",
        ) from error
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(about)
    with atomic_path(path) as partial:
        onnx.save(model, str(partial))


def _trace(network: Deployed, example: torch.Tensor) -> Any:
    import onnx

    # Known to the other exporter, not to this one.
    torch.onnx.register_custom_op_symbolic("aten::mT", _transpose, _OPSET)
    stream = io.BytesIO()
    axes = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        network,
        (example,),
        stream,  # type: ignore[arg-type]  # a stream is as good as a path to this exporter
        dynamo=False,
        opset_version=_OPSET,
        input_names=[INPUT],
        output_names=[network.output],
        dynamic_axes={INPUT: axes, network.output: axes},
    )
    return onnx.load_from_string(stream.getvalue())


def _transpose(graph: Any, x: Any) -> Any:
    """The last two axes of a value exchanged."""
    rank = x.type().dim()
    return graph.op("Transpose", x, perm_i=[*range(rank - 2), rank - 1, rank - 2])


def _dynamo(network: Deployed, example: torch.Tensor) -> Any:
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=_OPSET,
        input_names=[INPUT],
        output_names=[network.output],
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def require_onnx() -> None:
    """Raise `ConfigError` where the packages of the extra are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "ONNX needs packages that are not installed",
            found=str(error),
            fix="pip install 'bilevel-istd[export]'",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress lines and notes about its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
