"""The command line as a person uses it: help, helpful errors, and the way from train to predict."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from istd.data import SyntheticDataset, pack
from istd.data.synthetic import write_synthetic
from istd.engine import Detector, TrainConfig, packed
from istd.engine.detector import make_header
from istd.models import create_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "synthetic.h5"
    pack(SyntheticDataset(num_train=8, num_val=4, num_test=4, size=(40, 48), seed=3), path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-c", "from istd.cli import main; main()", "train", "--data", str(data)]
    command += [
        "--out",
        str(out),
        "--vfm",
        "random:test_vit",
        "--epochs",
        "2",
        "--crop",
        "32",
        "--batch-size",
        "4",
    ]
    command += ["--set", "clusters=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RANDOM" in done.stdout
    assert "teacher (test)" in done.stdout
    return out


def test_help_names_every_command_without_loading_torch():
    code = "import sys; sys.argv = ['istd', '--help']\nfrom istd.cli import main\ntry:\n    main()\n"
    code += "finally:\n    assert 'torch' not in sys.modules, 'help should be quick'"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for text in ("demo", "train", "eval", "predict", "130 stopped"):
        assert text in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", ["demo", "train"])
def test_common_options_are_the_same_everywhere(istd, command):
    code, text = istd(command, "--help")
    assert code == 0
    for option in (
        "method",
        "backbone",
        "vfm",
        "hypergradient",
        "epochs",
        "crop",
        "batch-size",
        "seed",
        "out",
    ):
        assert f"--{option}" in text


def test_defaults_shown_are_the_ones_used(istd):
    from istd.cli.train import DEFAULT_VFM
    from istd.engine import TrainConfig
    from istd.models import DEFAULT_VFM as MODEL_DEFAULT

    assert DEFAULT_VFM == MODEL_DEFAULT == TrainConfig(data="x").vfm
    code, text = istd("train", "--set", "help")
    assert code == 0
    assert "label_init = levels" in text
    assert "decay of the moving average of the weights" in " ".join(text.split())
    assert text.count("as published, or") == 1  # of label_fall alone
    code, text = istd("train", "--method", "lesps", "--set", "help")
    assert code == 0
    assert "label_init = points" in text
    assert "epochs = 400" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--data is missing"),
        (["train", "--data", "/nowhere"], "/nowhere"),
        (["train", "--data", "x", "--method", "magic"], "full | lesps | pal | semantic-prior"),
        (["train", "--data", "x", "--backbone", "resnet"], "mlclnet"),
        (["train", "--data", "x", "--hypergradient", "magic"], "gauss-newton"),
        (["train", "--data", "x", "--epochs", "0"], "--epochs"),
        (["train", "--data", "x", "--batch-size", "1"], "at least 2"),
        (["train", "--data", "x", "--device", "tpu"], "--device"),
        (["train", "--data", "x", "--set", "nonsense=1"], "--set help"),
        (["train", "--resume", "--out", "/nowhere"], "no run"),
        (["eval", "/nowhere"], "/nowhere"),
        (["predict", "/nowhere", "/nowhere"], "/nowhere"),
        (["frobnicate"], "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_explained(istd, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, text = istd(*arguments)
    assert code == 2
    assert message in text


def test_a_vfm_that_cannot_be_loaded_is_not_replaced(istd, tmp_path, data, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    code, text = istd("train", "--data", data, "--out", tmp_path / "run", "--epochs", "1")
    assert code == 2
    assert "vit_small_plus_patch16_dinov3" in text
    assert "--vfm" in text


def test_a_resumed_run_keeps_its_configuration(istd, trained):
    code, text = istd("train", "--resume", "--out", trained, "--epochs", "7")
    assert code == 2
    assert "epochs=7" in text
    assert "epochs=2" in text
    assert istd("train", "--resume", "--out", trained, "--set", "epochs=7")[0] == 2
    code, text = istd("demo", "--resume", "--out", trained, "--crop", "48", "--batch-size", "4")
    assert code == 2
    assert "crop=48" in text
    assert "batch_size" not in text


def test_a_run_that_has_moved_is_told_where_its_data_are(istd, trained, data, tmp_path, monkeypatch):
    run, moved = tmp_path / "run", tmp_path / "moved.h5"
    shutil.copytree(trained, run)
    shutil.copy(data, moved)
    before = (run / "config.json").read_text()
    code, text = istd("train", "--resume", "--out", run, "--data", moved, "--set", "lr=9")
    assert (code, "lr=9" in text, "moved" in text) == (2, True, False)
    assert (run / "config.json").read_text() == before
    code, text = istd("train", "--resume", "--out", run, "--data", moved, "--set", "checkpoint_seconds=60")
    assert code == 0, text
    kept = json.loads((run / "config.json").read_text())
    assert kept == {**json.loads(before), "data": str(moved), "checkpoint_seconds": 60}
    results = [json.loads((folder / "results.json").read_text()) for folder in (trained, run)]
    assert results[0]["metrics"] == results[1]["metrics"]
    # The weight files were written before and name the old place; the run's configuration is followed.
    seen = []
    monkeypatch.setattr("istd.engine.packed", lambda source: seen.append(source) or packed(source))
    code, text = istd("eval", run, "--out", tmp_path / "figures.json")
    assert code == 0, text
    assert seen == [str(moved)]


def test_eval_says_when_images_of_the_run_came_or_went(istd, tmp_path):
    """Without split files the split is made of all names, so it is another with more of them."""
    made = SyntheticDataset(num_train=6, num_val=2, num_test=2, size=(40, 48), seed=3)
    data, run = tmp_path / "data", tmp_path / "run"
    write_synthetic(made, data)
    for split in ("train", "val", "test"):
        (data / f"{split}.txt").unlink()
    options = ("--method", "full", "--epochs", "1", "--crop", "16", "--batch-size", "4")
    code, text = istd("train", "--data", data, "--out", run, *options)
    assert code == 0, text
    told = "is not split as it was"
    assert told not in istd("eval", run)[1]
    weights = run / "checkpoints" / "student.safetensors"
    for number in range(5):
        for kind in ("images", "masks"):
            source = next((data / kind).glob("train_00001.*"))
            shutil.copy(source, source.with_stem(f"more_{number}"))
    for what in (run, weights):
        code, text = istd("eval", what)
        assert code == 0, text
        assert told in " ".join(text.split())
    assert told not in istd("eval", run, "--data", data)[1], "other data have splits of their own"


def test_eval_of_weights_that_know_no_data_asks_for_some(istd, tmp_path):
    header = make_header(TrainConfig(data="", method="full"), None, 0.4, 0.1)
    Detector(create_model("mlclnet"), None, header).save_student(tmp_path / "w.safetensors")
    code, text = istd("eval", tmp_path / "w.safetensors")
    assert code == 2
    assert "give --data" in text


def test_eval_reports_both_and_agrees_with_the_run(istd, trained, tmp_path):
    code, text = istd("eval", trained, "--out", tmp_path / "eval.json")
    assert code == 0, text
    written = json.loads((tmp_path / "eval.json").read_text())
    results = json.loads((trained / "results.json").read_text())
    assert written["metrics"]["test"] == results["metrics"]["test"]
    assert written["split_hash"] == results["split_hash"]
    assert set(written["metrics"]["test"]) == {"student", "teacher"}


def test_eval_writes_curves_tables_and_worst_cases_in_the_convention_asked_for(istd, trained, tmp_path):
    options = ("--convention", "dnanet", "--distance", "4", "--threshold", "0.4", "--tta", "--tile", "32")
    code, text = istd("eval", trained, "--out", tmp_path / "eval", "--overlap", "8", *options)
    assert code == 0, text
    assert "camouflaged" in text
    names = {"metrics.json", "curves.png"}
    for role in ("student", "teacher"):
        names |= {f"{role}_{kind}" for kind in ("per_image.csv", "curves.csv", "groups.csv", "worst.png")}
    assert {path.name for path in (tmp_path / "eval").iterdir()} == names
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["convention"]["false_area"] == "by_value"
    assert written["convention"]["distance"] == 4
    assert written["tta"] is True
    assert 0.4 in written["curves"]["student"]["thresholds"]
    assert istd("eval", trained, "--convention", "magic")[0] == 2


def test_eval_keeps_the_students_figures_when_the_teacher_cannot_be_had(istd, trained, tmp_path):
    for vfm, message in (("random:test_vit2", "another frozen model"), ("random:magic", "magic")):
        code, text = istd("eval", trained, "--vfm", vfm, "--out", tmp_path / "eval.json")
        assert code == 1
        assert message in text
        assert set(json.loads((tmp_path / "eval.json").read_text())["metrics"]["test"]) == {"student"}
    code, text = istd("eval", trained / "checkpoints" / "teacher.safetensors", "--vfm", "random:test_vit2")
    assert code == 2, text


def test_eval_refuses_another_backbone_and_unknown_splits(istd, trained):
    assert istd("eval", trained, "--backbone", "alclnet")[0] == 2
    code, text = istd("eval", trained, "--split", "exam")
    assert code == 2
    assert "train" in text


def test_predict_writes_masks_overlays_and_targets(istd, trained, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    dataset = SyntheticDataset(num_train=1, num_val=1, num_test=3, size=(50, 70), seed=9)
    for name in dataset.splits["test"]:
        cv2.imwrite(str(folder / f"{name}.png"), dataset.read(name).image)
    cv2.imwrite(
        str(folder / "sixteen.tif"), np.random.default_rng(0).integers(0, 4000, (33, 41)).astype(np.uint16)
    )
    (folder / "notes.txt").write_text("not an image")

    code, text = istd("predict", trained, folder, "--out", tmp_path / "out", "--threshold", "0.3")
    assert code == 0, text
    names = {*dataset.splits["test"], "sixteen"}
    for kind in ("masks", "overlays"):
        assert {path.stem for path in (tmp_path / "out" / kind).iterdir()} == names
    mask = cv2.imread(
        str(tmp_path / "out" / "masks" / f"{dataset.splits['test'][0]}.png"), cv2.IMREAD_UNCHANGED
    )
    assert mask.shape == (50, 70)
    assert set(np.unique(mask)) <= {0, 255}
    with (tmp_path / "out" / "targets.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    areas = dict.fromkeys(names, 0)
    for row in rows:
        assert set(row) == {"image", "x", "y", "area", "score"}
        areas[row["image"]] += int(row["area"])
        assert 0.3 < float(row["score"]) <= 1.0
    for name in names:
        mask = cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert areas[name] == np.count_nonzero(mask)


def test_predict_goes_on_after_a_broken_image(istd, trained, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "good.png"), np.full((40, 40), 90, np.uint8))
    whole = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))[
        1
    ].tobytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    code, text = istd("predict", trained, folder, "--out", tmp_path / "out")
    assert code == 1
    assert "broken.png" in text
    assert (tmp_path / "out" / "masks" / "good.png").exists()
    assert (tmp_path / "out" / "targets.csv").exists()


def test_predict_cuts_tiles_takes_patterns_and_goes_on(istd, trained, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pixels = np.random.default_rng(0).integers(0, 255, (50, 70)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), pixels)
    options = ("--out", tmp_path / "out", "--tile", "32", "--overlap", "8", "--batch-size", "4", "--tta")
    code, text = istd("predict", trained, tmp_path / "in" / "*.png", *options, "--role", "teacher")
    assert code == 0, text
    assert "in 2 images;" in text
    # A weight file says itself whose it is.
    weights = trained / "checkpoints" / "teacher.safetensors"
    again = istd("predict", weights, tmp_path / "in", *options, "--skip-existing")
    assert again[0] == 0
    assert "2 were there already" in again[1]
    assert json.loads((tmp_path / "out" / "targets.coco.json").read_text())["images"][1]["id"] == 2
    about = (tmp_path / "out" / "provenance.json").read_bytes()
    code, text = istd("predict", trained, tmp_path / "in", *options, "--skip-existing")
    assert code == 2
    assert "role=teacher" in text
    assert (tmp_path / "out" / "provenance.json").read_bytes() == about, "of the answers that are there"
    assert istd("predict", trained, tmp_path / "in", "--tile", "16", "--overlap", "12")[0] == 2
    assert istd("predict", trained, tmp_path / "in", "--save", "films")[0] == 2


def test_demo_does_not_replace_a_run_of_ones_own(istd, trained):
    code, text = istd("demo", "--out", trained)
    assert code == 2
    assert "not a demo" in text
    assert (trained / "results.json").exists()


@pytest.mark.slow
def test_demo_runs_is_replaced_by_the_next_and_touches_nothing_else(istd, tmp_path, monkeypatch):
    small = functools.partial(SyntheticDataset, num_train=8, num_val=2, num_test=2, size=(40, 40))
    monkeypatch.setattr("istd.data.SyntheticDataset", lambda seed, **sizes: small(seed=seed))
    (tmp_path / "mine.txt").write_text("keep me")
    options = ("--epochs", "1", "--crop", "32", "--batch-size", "4", "--vfm", "random:test_vit")
    code, text = istd("demo", "--out", tmp_path, *options)
    assert code == 0, text
    assert "RANDOM" in text
    assert "overlays.png" in text
    first = (tmp_path / "results.json").read_bytes()

    assert istd("demo", "--out", tmp_path, *options, "--method", "magic")[0] == 2
    assert (tmp_path / "results.json").read_bytes() == first, "a typo removed the previous demo"
    assert istd("demo", "--out", tmp_path, *options, "--seed", "1")[0] == 0
    assert json.loads((tmp_path / "results.json").read_text())["seed"] == 1
    assert istd("demo", "--out", tmp_path, "--resume")[0] == 0
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_errors_show_paths_with_brackets_whole(istd, tmp_path):
    code, text = istd("train", "--data", tmp_path / "a [v2] [/x]", "--out", tmp_path / "run")
    assert code == 2
    assert "a [v2] [/x]" in text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lr=5e-4", 5e-4),
        ("augment=False", False),
        ("prior=none", None),
        ("vfm=none", "none"),
        ("clusters=3", 3),
    ],
)
def test_settings_are_read_as_a_person_means_them(setting, value):
    from istd.engine.config import parse_setting

    name, _, text = setting.partition("=")
    parsed = parse_setting(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "setting",
    ["lr=abc", "lr=-1", "lr=nan", "epochs=1.5", "seed=x", "augment=maybe", "method=none", "eval_every=0"],
)
def test_settings_of_a_wrong_type_are_refused(istd, tmp_path, setting):
    code, text = istd("train", "--data", tmp_path, "--out", tmp_path / "run", "--set", setting)
    assert code == 2
    assert setting.partition("=")[0] in text
    assert not (tmp_path / "run").exists()
