"""Weights published by the authors, renamed to the modules here.

| network | public code | notes |
| --- | --- | --- |
| MLCL-Net, ALCL-Net | YuChuang1205/PAL, yuanhang-yao/semantic-prior | a teacher has its CNN under `base.` |
| GGL-Net | YuChuang1205/PAL | |
| MSHNet | Lliu666/MSHNet, YuChuang1205/PAL | |
| DNANet | YeRen123455/Infrared-Small-Target-Detection, YuChuang1205/PAL | with deep supervision |
| RepISD-Net | dalinlin-Wu/RepISD-Net | in training, converted or deployed; one of the two maps is kept |
| SCTransNet | xdFai/SCTransNet, YuChuang1205/PAL | made for 256 × 256 |

The names themselves are in `_reference_keys.py`. Checkpoints of a wrapped network (`module.`, `model.`) are
unwrapped.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import ModelError
from ._reference_keys import BACKBONE_NAMES, SCAM_NAMES, Names, rename


def convert_reference_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a published network for `create_model(...).load_state_dict`.

    Which network it is follows from the keys.

    Args:
        state_dict: of the bare network, of a wrapped one (`module.`, `model.`), or of a teacher (`base.`; the
            modulator and the foundation model beside it are left out).

    Raises:
        ModelError: if the keys are not those of one of the networks.
    """
    own = _without_prefix(_without_prefix(state_dict, "module."), "model.")
    if any(key.startswith("base.") for key in own):
        own = {key.removeprefix("base."): value for key, value in own.items() if key.startswith("base.")}
    tried = {name: _unknown(own, names) for name, names in BACKBONE_NAMES.items()}
    nearest = min(tried, key=lambda name: len(tried[name]))
    if tried[nearest]:
        raise _foreign(tried[nearest][0])
    if nearest == "repisdnet":  # of its two maps, background and target, the network here has the second
        own = {key: value[-1:] if key.startswith("cls.4.") else value for key, value in own.items()}
    return _renamed(own, BACKBONE_NAMES[nearest])


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
    own = {key: value for key, value in own.items() if not key.startswith("dino.")}
    unknown = _unknown(own, SCAM_NAMES)
    if unknown:
        raise _foreign(unknown[0])
    return _renamed(own, SCAM_NAMES)


def _without_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items()}


def _unknown(state_dict: Mapping[str, Tensor], names: Names) -> list[str]:
    return [key for key in state_dict if rename(key, names) is None]


def _renamed(state_dict: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    renamed = ((rename(key, names), value) for key, value in state_dict.items())
    return {key: value for key, value in renamed if key is not None}


def _foreign(key: str) -> ModelError:
    return ModelError(
        "this key is not of a published network that is known here, or of its teacher",
        where=key,
        expected=f"the weights of one of {', '.join(BACKBONE_NAMES)}, named as in their authors' code",
        fix="load it with load_state_dict if it was saved by this project",
    )
