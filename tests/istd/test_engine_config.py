"""The configuration of a run, and what follows from it: presets, phases, learning rates."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from training_processes import registered

from istd.engine import TrainConfig
from istd.engine.config import parse_setting, setting_choices
from istd.engine.methods import Full, Pal, PlainMethod, list_methods, method_class, register_method
from istd.engine.presets import METHOD_PRESETS
from istd.engine.schedule import evolves, learning_rate, may_evolve
from istd.errors import ConfigError
from istd.models import list_models


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "none"}, "--method"),
        ({"label_init": "magic"}, "contrast"),
        ({"backbone": "resnet"}, "mlclnet"),
        ({"epochs": 0}, "--epochs"),
        ({"crop": 8}, "--crop"),
        ({"target_fraction": 1.5}, "--set target_fraction"),
        ({"batch_size": 1}, "at least 2"),
        ({"coupling": "separate", "student_weight": 0.0}, "train the student"),
        ({"lr": "abc"}, "wrong type"),
        ({"coupling": None}, "--set coupling"),
        ({"lr_milestones": (0.5, 2.0)}, "list of fractions"),
        ({"ema": 1.0}, "--set ema is out of range"),
        ({"contrast_fraction": 0.9}, "at most 0.7"),
        ({"label_fall": "follow", "label_rise": "raise"}, "never fall"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(data="x", **changes)


def test_a_configuration_survives_json():
    config = TrainConfig(data="x", method="lesps", prior=None, clusters=7, lr_milestones=(0.25,))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert parse_setting("lr_milestones", "0.25, 0.5") == (0.25, 0.5)
    assert parse_setting("vfm_layers", "none") is None
    with pytest.raises(ConfigError, match="warp"):
        TrainConfig.from_dict({**config.to_dict(), "warp": 9})


def test_phases_shrink_with_the_run():
    published, short = TrainConfig(data="x"), TrainConfig(data="x", epochs=30)
    assert (published.evolve_interval, published.outer_interval) == (5, 5)
    assert (short.evolve_interval, short.outer_interval) == (1, 1)
    assert replace(short, evolve_every=4).evolve_interval == 4


def test_learning_rates():
    constant = TrainConfig(data="x", epochs=10, lr=0.5)
    cosine = replace(constant, lr_schedule="cosine")
    assert learning_rate(constant, 7.3) == 0.5
    assert [learning_rate(cosine, epoch) for epoch in (0, 5, 10)] == pytest.approx([0.5, 0.25, 0.0])
    lesps = TrainConfig(data="x", method="lesps")
    rates = [learning_rate(lesps, epoch) for epoch in (0, 199.9, 200, 299.9, 300, 399)]
    assert rates == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6])


def test_presets_are_the_papers_and_can_be_overridden():
    published = {
        "full": (300, "adamw", 1e-3, 1e-2, "bce-iou", "levels", 0.2, 0.0, 0.97),
        "lesps": (400, "adam", 5e-4, 0.0, "focal", "points", 0.0, 10.0, 1.0),
        "pal": (400, "adamw", 1e-3, 1e-2, "hard-bce", "levels", 0.2, 0.0, 0.97),
        "semantic-prior": (300, "adamw", 1e-3, 1e-2, "bce-iou", "levels", 0.2, 0.0, 0.97),
    }
    names = ["epochs", "optimizer", "lr", "weight_decay", "loss", "label_init"]
    names += ["evolve_start", "evolve_loss", "label_decay"]
    for method, values in published.items():
        made = TrainConfig(data="x", method=method)
        assert tuple(getattr(made, name) for name in names) == values
        assert (made.evolve_interval, made.mine_until) == (5, 0.8)
    other = TrainConfig(data="x", method="lesps", **dict(zip(names, published["pal"], strict=True)))
    assert tuple(getattr(other, name) for name in names) == published["pal"]
    joined = {name: TrainConfig(data="x", backbone=name).over_outputs for name in list_models()}
    assert {name for name, way in joined.items() if way == "sum"} == {"dnanet", "sctransnet"}
    assert TrainConfig(data="x", backbone="dnanet", deep_supervision="mean").over_outputs == "mean"
    assert TrainConfig(data="x").outer_lr == 1e-2
    assert TrainConfig(data="x", hypergradient="reference").outer_lr == 1e-3


def test_labels_evolve_by_interval_or_when_the_loss_is_low():
    pal = TrainConfig(data="x", method="pal", epochs=20, evolve_every=4)
    assert may_evolve(pal, 99.0)
    assert [epoch for epoch in range(20) if evolves(pal, epoch, since=1)] == [8, 12, 16]
    lesps = TrainConfig(data="x", method="lesps", epochs=20, evolve_every=5)
    assert (may_evolve(lesps, 10.0), may_evolve(lesps, 9.9)) == (False, True)
    assert not any(evolves(lesps, epoch, since=-1) for epoch in range(20))
    assert [epoch for epoch in range(3, 20) if evolves(lesps, epoch, since=3)] == [3, 5, 10, 15]


def test_methods_are_known_by_registration():
    assert setting_choices("method") == tuple(list_methods()) == ("full", "lesps", "pal", "semantic-prior")
    assert method_class("full") is Full
    with pytest.raises(ConfigError, match="registered already"):
        register_method("full")(Full)
    with pytest.raises(ConfigError, match="crop"):
        register_method("other", crop=64)(Full)
    with pytest.raises(ConfigError, match=r"other(.|\n)*semantic-prior"):
        method_class("other")
    assert "other" not in setting_choices("method")
    assert set(setting_choices("label_init")) == {"canny", "contrast", "learned", "levels", "points"}


@pytest.fixture
def own_methods():
    with registered():
        yield


@pytest.mark.usefixtures("own_methods")
def test_rules_follow_what_a_method_says_of_itself():
    @register_method("own-masks")
    class OwnMasks(Full):
        pass

    @register_method("own-clusters")
    class OwnClusters(Pal):
        uses_clusters = True

    assert TrainConfig(data="x", method="own-masks", batch_size=1, label_init="learned").batch_size == 1
    assert TrainConfig(data="x", method="own-clusters", batch_size=2).lr == 1e-3
    with pytest.raises(ConfigError, match="at least 2 with --method own-clusters"):
        TrainConfig(data="x", method="own-clusters", batch_size=1)
    with pytest.raises(ConfigError, match="learned from trusted masks"):
        TrainConfig(data="x", method="own-clusters", label_init="learned")

    class Undecided(PlainMethod):
        pass

    with pytest.raises(ConfigError, match=r"undecided(.|\n)*does not say what it learns from"):
        register_method("undecided")(Undecided)
    assert "undecided" not in (*list_methods(), *METHOD_PRESETS)
