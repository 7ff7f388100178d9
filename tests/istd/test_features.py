"""Hidden maps of the frozen model, for crops."""

from __future__ import annotations

import torch

from istd.data import Batch
from istd.engine.features import live_features
from istd.engine.runtime import autocast
from istd.models import create_vfm


def test_weights_converted_once_give_the_maps_of_autocast_and_the_model_stays() -> None:
    vfm = create_vfm("random:test_vit")
    fingerprint = vfm.fingerprint
    image = torch.rand(2, 1, 32, 48)
    place = torch.zeros(2, dtype=torch.int64)
    batch = Batch(place, image, image, place, place)
    with autocast("bfloat16", image.device):
        expected = vfm(image)
    found = live_features(vfm, "bfloat16")(batch)
    assert found is not None
    assert torch.equal(found, expected)
    assert vfm.fingerprint == fingerprint
    exact = live_features(vfm)(batch)
    assert exact is not None
    assert torch.equal(exact, vfm(image))
    assert not torch.equal(exact, expected.float())
    assert live_features(None, "bfloat16")(batch) is None
