"""Weights published by the authors, renamed to the modules here.

The public PyTorch code of MLCL-Net, ALCL-Net (in the PAL framework) and of arXiv 2605.14346 shares one
naming; its teacher puts the CNN under `base.` and the modulator under `modulator.`.

| theirs | here |
| --- | --- |
| `stage.layer1.*` | `encoder.stem.*` |
| `stage.resnet{s}_{b}.layer.*`, `.layer1.*` | `encoder.stages.{s-1}.{b-1}.body.*` |
| `stage.resnet{s}_{b}.layer2.*` | `encoder.stages.{s-1}.{b-1}.shortcut.*` |
| `mlcl{s}.layer{j}.*`, `mlcl{s}.conv.*` | `contrast.{s-1}.branches.{j-1}.*`, `contrast.{s-1}.fuse.*` |
| `conv{s}.*` | `lateral.{s-1}.*` |
| `lcl{s}.layer1.*` | `contrast.{s-1}.*` |
| `sbam{s}.hl_layer.*`, `sbam{s}.ll_layer.*` | `attention.{s-1}.high.*`, `attention.{s-1}.gate.*` |
| `layer.*` | `head.*` |
| `layer_fuse_logits`, `attn_score.*`, `mlp.*`, `gamma_gate` | `fusion`, `attention.*`, `mlp.*`, `gate` |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import ModelError

_STAGE = r"(?P<s>\d)"
_BACKBONE_RULES: tuple[tuple[str, str], ...] = (
    (r"stage\.layer1\.", "encoder.stem."),
    (rf"stage\.resnet{_STAGE}_(?P<b>\d)\.layer1?\.", "encoder.stages.{s}.{b}.body."),
    (rf"stage\.resnet{_STAGE}_(?P<b>\d)\.layer2\.", "encoder.stages.{s}.{b}.shortcut."),
    (rf"mlcl{_STAGE}\.layer(?P<b>\d)\.", "contrast.{s}.branches.{b}."),
    (rf"mlcl{_STAGE}\.conv\.", "contrast.{s}.fuse."),
    (rf"conv{_STAGE}\.", "lateral.{s}."),
    (rf"lcl{_STAGE}\.layer1\.", "contrast.{s}."),
    (rf"sbam{_STAGE}\.hl_layer\.", "attention.{s}.high."),
    (rf"sbam{_STAGE}\.ll_layer\.", "attention.{s}.gate."),
    (r"layer\.", "head."),
)
_SCAM_RULES: tuple[tuple[str, str], ...] = (
    (r"layer_fuse_logits$", "fusion"),
    (r"attn_score\.", "attention."),
    (r"mlp\.", "mlp."),
    (r"gamma_gate$", "gate"),
)


def convert_reference_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a published MLCL-Net or ALCL-Net for `create_model(...).load_state_dict`.

    Args:
        state_dict: of the bare network, of a `DataParallel` one (`module.`), or of a teacher (`base.`; the
            modulator and the foundation model beside it are left out).

    Raises:
        ModelError: if a key is not one of those networks'.
    """
    own = _without_prefix(state_dict, "module.")
    if any(key.startswith("base.") for key in own):
        own = {key.removeprefix("base."): value for key, value in own.items() if key.startswith("base.")}
    return {_rename(key, _BACKBONE_RULES): value for key, value in own.items()}


def convert_reference_scam(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published teacher's modulator for `SCAM.load_state_dict`.

    Args:
        state_dict: of the teacher (keys under `modulator.`) or of the modulator alone. A foundation model
            in it (`modulator.dino.`) is left out.

    Raises:
        ModelError: if a key is not the modulator's.
    """
    own = _without_prefix(state_dict, "module.")
    if any(key.startswith("modulator.") for key in own):
        own = {k.removeprefix("modulator."): v for k, v in own.items() if k.startswith("modulator.")}
    return {_rename(k, _SCAM_RULES): v for k, v in own.items() if not k.startswith("dino.")}


def _without_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items()}


def _rename(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        match = re.match(pattern, key)
        if match:
            places = {name: int(number) - 1 for name, number in match.groupdict().items()}
            return replacement.format(**places) + key[match.end() :]
    raise ModelError(
        "this key is not of a published MLCL-Net, ALCL-Net or their teacher",
        where=key,
        expected="keys such as stage.layer1.0.weight",
        fix="load it with load_state_dict if it was saved by this project",
    )
