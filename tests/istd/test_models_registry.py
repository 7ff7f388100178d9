from __future__ import annotations

import pytest
import torch

from istd.errors import ModelError
from istd.models import (
    MODULATION_SCALES,
    Backbone,
    FeatureInfo,
    create_model,
    list_models,
    modulation_scale,
    register_model,
)
from istd.models import registry as registry_module


def test_the_models_are_listed_and_filtered():
    assert {"alclnet", "mlclnet"} <= set(list_models())
    assert list_models("ml*") == ["mlclnet"]
    assert list_models() == sorted(list_models())


@pytest.mark.parametrize("name", ["mlclnet", "MLCLNet", "MLCL-Net", "mlcl_net"])
def test_spelling_does_not_matter(name: str):
    model = create_model(name)
    assert isinstance(model, Backbone)
    assert model.name == "mlclnet"


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(ModelError, match="did you mean 'mlclnet'") as error:
        create_model("mlcnet")
    assert "alclnet" in str(error.value)


def test_an_unknown_argument_is_refused():
    with pytest.raises(ModelError, match="depth"):
        create_model("mlclnet", depth=3)


def test_a_new_model_registers_under_its_name_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry_module, "_ENTRYPOINTS", dict(registry_module._ENTRYPOINTS))

    def mynet(in_chans: int = 3) -> Backbone:
        return create_model("alclnet", in_chans)

    register_model(mynet)
    assert "mynet" in list_models()
    assert create_model("mynet", in_chans=2).name == "mynet"
    with pytest.raises(ModelError, match="registered already"):
        register_model(mynet)


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_modulation_scale_and_true_feature_info(name: str):
    assert modulation_scale(name) > 0
    model = create_model(name).eval()
    size = 2 * model.stride
    with torch.no_grad():
        features = model.forward_features(torch.rand(1, 3, size, size))
    modules = dict(model.named_modules())
    for info, feature in zip(model.feature_info, features, strict=True):
        assert isinstance(info, FeatureInfo)
        assert feature.shape == (1, info.num_chs, size // info.reduction, size // info.reduction)
        assert info.module in modules
    assert model.stage_channels == [info.num_chs for info in model.feature_info]


def test_scales_are_those_of_the_public_code():
    assert (MODULATION_SCALES["alclnet"], MODULATION_SCALES["mlclnet"]) == (0.12, 0.55)
    with pytest.raises(ModelError, match="give the scale yourself"):
        modulation_scale("mynet")
