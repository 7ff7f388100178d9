"""The signatures that programs rely on: changing them is a decision, not an accident."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from istd import data, doctor, engine, export, labels, metrics, models
from istd.engine import methods

SIGNATURES: dict[Callable[..., Any], str] = {
    data.open_dataset: "path layout mask_threshold",
    data.load_split: "dataset split device require_points progress memory_gb",
    data.pack: "dataset path progress",
    data.SyntheticDataset: "num_train num_val num_test size seed settings",
    data.write_synthetic: "dataset out layout bits kind progress",
    data.read_points: "path images",
    data.write_points: "path points",
    data.register_folder_layout: "name tree detect parts fallback",
    doctor.diagnose: "path layout mask_threshold scenes progress",
    engine.Trainer: "config out resume console command",
    engine.load_detector: "path role device vfm backbone",
    engine.Detector.logits: "self image role",
    engine.predict_images: "detector paths out options device progress about",
    labels.initialize: "image points method settings",
    labels.register_initialization: "name settings",
    labels.calibrate: "images masks points settings fractions noise_floors objective prior_images",
    labels.evolve: "pred label points settings",
    models.create_model: "name in_chans kwargs",
    models.create_teacher_student: "backbone vfm coupling modulation hidden_dim scale kwargs",
    models.create_vfm: "spec num_layers arch norm seed timeout",
    models.Backbone.forward_features: "self x modulate",
    models.Backbone.forward_head: "self features size",
    metrics.DetectionMetrics: "convention from_logits kwargs",
    metrics.MetricConvention: "threshold connectivity distance matching empty_niou false_area",
    export.export_onnx: "network path about exporter",
    export.export_torchscript: "network path about",
    methods.register_method: "name preset",
    methods.Method.build: "config model num_clusters",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signature(function: Callable[..., Any]) -> None:
    assert " ".join(inspect.signature(function).parameters) == SIGNATURES[function]
