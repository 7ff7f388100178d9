"""From what a user says about a foundation model to the model itself."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._paths import given_path
from ..errors import ModelError
from ._hub import fetch_weights

DEFAULT_RANDOM_ARCH = "vit_tiny_patch16_224"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HOW_ELSE = (
    "pass a weight file you have (--vfm ARCHITECTURE:FILE), name another model, "
    "or go without one (--vfm none); --vfm random is for trials only"
)


@dataclass(frozen=True)
class Source:
    """A ViT, what to normalise its images by, and where it came from."""

    model: nn.Module
    name: str
    origin: str
    is_random: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resolve(spec: str | Path | nn.Module, arch: str | None, *, seed: int, timeout: float) -> Source:
    """See `istd.models.create_vfm`."""
    if isinstance(spec, nn.Module):
        return _source(spec, type(spec).__name__, "a module that was passed in", is_random=False)
    text = str(spec).strip()
    if text == "random" or text.startswith("random:"):
        name = text.partition(":")[2] or arch or DEFAULT_RANDOM_ARCH
        model = _build(name, seed=seed)
        return _source(model, name, f"random weights (seed {seed})", is_random=True)
    if arch is None and isinstance(spec, str) and not given_path(text).exists():
        before, colon, after = text.partition(":")
        if colon and _is_arch(before):
            text, arch = after, before
    path = given_path(text)
    if path.is_dir() or path.suffix in WEIGHT_SUFFIXES or path.is_file():
        return _from_path(path, arch)
    if arch is not None:
        raise ModelError(
            "there is no such weight file", where=text, fix="check the path after the architecture"
        )
    return _from_hub(text, timeout)


def _from_hub(name: str, timeout: float) -> Source:
    model = _build(name, seed=0)
    config: Any = model.pretrained_cfg
    if not config.get("hf_hub_id"):
        raise ModelError(f"timm has no pretrained weights on the hub for {name!r}", fix=_HOW_ELSE)
    named = config.get("hf_hub_filename")
    filenames = [named] if named else ["model.safetensors", "pytorch_model.bin"]
    path = fetch_weights(config["hf_hub_id"], filenames, timeout=timeout, how_else=_HOW_ELSE)
    _load(model, path, name)
    return _source(model, name, f"pretrained weights of {config['hf_hub_id']}", is_random=False)


def _from_path(path: Path, arch: str | None) -> Source:
    if path.is_dir():
        candidates = [path / f"model{suffix}" for suffix in WEIGHT_SUFFIXES] + sorted(
            file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES
        )
        weights = next((file for file in candidates if file.is_file()), None)
        if weights is None:
            raise ModelError(
                "the folder has no weight file",
                where=path,
                expected=f"a file ending in {', '.join(WEIGHT_SUFFIXES)}",
            )
        path = weights
    if not path.is_file():
        raise ModelError("there is no such weight file", where=path, fix="check the path")
    config = _config_beside(path)
    arch = arch or _architecture_in(path) or config.get("architecture")
    if arch is None:
        raise ModelError(
            "the architecture of this weight file is not known",
            where=path,
            expected='a timm architecture: in the option, in the file\'s metadata ("architecture"), '
            "or in a config.json beside it",
            fix=f"write it before the path, for example --vfm vit_small_patch16_dinov3:{path.name}",
        )
    model = _build(arch, seed=0)
    _load(model, path, arch)
    statistics = config.get("pretrained_cfg", config)
    return _source(model, arch, f"weights of the file {path.name}", is_random=False, statistics=statistics)


def _is_arch(name: str) -> bool:
    import timm

    return bool(timm.is_model(name.partition(".")[0]))


def _build(name: str, *, seed: int) -> nn.Module:
    """The architecture with seeded random weights, for images of any size and without a classifier."""
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models("*vit*"), n=3)
        raise ModelError(
            f"{name!r} is neither a file nor a model that timm {timm.__version__} knows",
            expected=f"a timm ViT{', such as ' + ', '.join(close) if close else ''}, or a path to weights",
            fix=_HOW_ELSE,
        )
    if tag:
        tagged = [known for known in timm.list_pretrained(base) if known.partition(".")[0] == base]
        if name not in tagged:
            raise ModelError(
                f"{base} has no pretrained weights tagged {tag!r}",
                expected=f"one of {', '.join(tagged)}" if tagged else "no tag: it has no pretrained weights",
            )
    try:
        with _seeded(seed):
            return timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise ModelError(
            "this model cannot take images of any size, so it cannot be a foundation model here",
            where=name,
            found=error,
            fix=_HOW_ELSE,
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from the CPU generator as seeded; afterwards it is as it was. Other devices are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _load(model: nn.Module, path: Path, arch: str) -> None:
    """Load a file's weights. Every weight of the model must be in it; heads it lacks may be left over."""
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path), weights_only=True)
        convert: Callable[..., Mapping[str, Tensor]] | None = getattr(
            sys.modules[type(model).__module__], "checkpoint_filter_fn", None
        )
        state = state if convert is None else convert(state, model)  # timm's own, from the publishers' naming
        result = model.load_state_dict(state, strict=False)
    except Exception as error:  # damaged files fail in many ways: unpickling, safetensors, shapes, keys
        raise ModelError(
            f"the weights could not be loaded into {arch}",
            where=path,
            found=f"{type(error).__name__}: {str(error)[:300]}",
            expected="a complete state_dict (safetensors, or a torch file that needs no code to load)",
            fix="check the architecture, and save torch checkpoints again as plain tensors",
        ) from error
    if result.missing_keys:
        few = ", ".join(result.missing_keys[:3])
        raise ModelError(
            f"the file does not hold the weights of {arch}",
            where=path,
            found=f"{len(result.missing_keys)} weights are missing, such as {few}",
            fix="name the architecture that the file was saved from",
        )


def _config_beside(path: Path) -> dict[str, Any]:
    file = path.parent / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError("this model description is not readable JSON", where=file, found=error) from error
    return config if isinstance(config, dict) and isinstance(config.get("architecture"), str) else {}


def _architecture_in(path: Path) -> str | None:
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("architecture")
    except (SafetensorError, OSError) as error:
        raise ModelError("this is not a readable safetensors file", where=path, found=error) from error


def _source(
    model: nn.Module, name: str, origin: str, *, is_random: bool, statistics: Mapping[str, Any] | None = None
) -> Source:
    own: Mapping[str, Any] = {**(getattr(model, "pretrained_cfg", None) or {}), **(statistics or {})}
    return Source(
        model=model,
        name=name,
        origin=origin,
        is_random=is_random,
        mean=tuple(own.get("mean") or _IMAGENET_MEAN),
        std=tuple(own.get("std") or _IMAGENET_STD),
    )
