"""The speed benchmark in its quick form, without the reference, and how its table is made."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from speed import cli
from speed.ceiling import Ceiling, reach
from speed.images import load_images
from speed.report import EPOCH_ON_GPU, Cell, lines, markdown
from speed.timing import Contest, Row, run

from istd._provenance import provenance

NOW = {**provenance("speed_bench.py"), "load": 0.0}
JOB = {"repeats": 3, "budget": 60.0, "device": "cpu"}


def _cells(allocator: str, ours: float) -> list[Cell]:
    """Every part of an epoch: ours takes `ours` seconds, the reference 1."""
    names = (
        "a step of an epoch",
        "outer step",
        "evolution of an image, teacher included",
        "evaluation of an image, student",
        "evaluation of an image, teacher",
    )
    rows = [Row(name, ours=[ours] * 3, reference=[1.0] * 3, distance=0.0) for name in names]
    return [Cell("all", allocator, rows=rows)]


def test_a_contest_is_checked_first_then_timed_in_turns() -> None:
    calls: list[str] = []
    row = run(
        Contest(
            "sleep",
            lambda: calls.append("ours"),
            lambda: calls.append("reference"),
            check=lambda: calls.append("check") or 0.5,
            per=2,
        ),
        JOB,
    )
    rounds = ["ours", "reference", "reference", "ours", "ours", "reference"]
    assert calls == ["check", "ours", "reference", *rounds]
    assert len(row.ours) == len(row.reference) == 3
    assert row.distance == 0.5


def test_the_budget_ends_the_rounds_after_the_first() -> None:
    assert len(run(Contest("none", lambda: None), {**JOB, "budget": 0.0}).ours) == 1


def test_ratios_targets_and_what_is_shipped() -> None:
    found = lines([*_cells("default", 0.5), *_cells("tuned", 0.2)], batch=8, device="cpu")
    default, tuned = ([line for line in found if line.allocator == name] for name in ("default", "tuned"))
    outer = {line.name: line for line in default}["outer step"]
    assert (outer.ratio, outer.target, outer.met, outer.shipped) == (2.0, 4.0, False, None)
    outer = {line.name: line for line in tuned}["outer step"]
    assert (outer.ratio, outer.met, outer.shipped) == (pytest.approx(5), True, pytest.approx(5))
    # 170 // 8 steps, 4/5 of an outer step, 213/5 images evolved, 43 images evaluated by either network.
    units = 21 + 0.8 + 42.6 + 2 * 43
    epoch = {line.name: line for line in tuned}["whole epoch"]
    assert epoch.reference_ms == pytest.approx(1e3 * units)
    assert epoch.ours_ms == pytest.approx(200 * units)
    assert epoch.met
    gpu = lines(_cells("default", 0.25), batch=8, device="cuda")[-1]
    assert (gpu.target, gpu.met) == (EPOCH_ON_GPU, False)


def test_other_work_has_no_ratio_and_unequal_results_are_shown() -> None:
    extra = Row("more", ours=[1.0], reference=[2.0], extra=True)
    wrong = Row("outer step", ours=[1.0], reference=[9.0], distance=0.1, bound=1e-5)
    cells = [
        Cell("outer", "default", rows=[extra, wrong], busy=0.9, commit="0123456789abcdef"),
        Cell("inner", "default", "failed", "code 1: out of luck"),
    ]
    found = lines(cells, 8, "cpu")
    assert found[0].ratio is None
    assert found[1].equal is False
    text = markdown(found, cells, {}, NOW)
    assert "NOT equal" in text
    assert "failed: inner (default): code 1: out of luck" in text
    assert "90% of the machine in use before outer" in text
    assert "outer (default) was measured on code 0123456789\n" in text


def test_the_share_of_the_ceiling_is_counted_and_shown() -> None:
    a = torch.randn(32, 48, requires_grad=True)
    found = reach(
        "a product", "float32", lambda: (a @ a.T).sum().backward(), Ceiling({"float32": 10.0}, 1.0), JOB
    )
    assert found.gflop == pytest.approx(3 * 2 * 32 * 32 * 48 / 1e9)
    assert found.fraction == pytest.approx(found.gflop / (found.ms / 1e3) / 10.0)
    ceiling = Ceiling({"float32": 100.0, "bfloat16": 400.0}, 8.0, [found])
    text = markdown([], [Cell("ceiling", "tuned", ceiling=asdict(ceiling))], {}, NOW)
    assert "100 GFLOP/s in float32, 400 GFLOP/s in bfloat16; a large copy: 8 GB/s" in text
    assert "| a product | float32 |" in text


def test_generated_images_have_the_crop_s_size_masks_and_points() -> None:
    images = load_images({"data": "", "crop": 64, "images": 3, "seed": 0})
    assert images.images.sizes == ((64, 64),) * 3
    assert images.masks is not None
    for number, points in enumerate(images.points):
        mask = images.masks.image(number).numpy()
        assert mask[points[:, 0], points[:, 1]].all()


def test_squares_of_a_dataset_are_cut_around_a_target(sirst_root: Path) -> None:
    images = load_images({"data": str(sirst_root), "crop": 64, "images": 3, "seed": 0})
    assert images.images.sizes == ((64, 64),) * 3
    assert images.masks is not None
    for number, points in enumerate(images.points):
        assert len(points)
        assert np.count_nonzero(images.masks.image(number).numpy())


@pytest.mark.slow
def test_the_command_measures_keeps_and_takes_up_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "--quick",
        "--only",
        "metrics",
        "--allocator",
        "tuned",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(arguments) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    names = [line["name"] for line in content["lines"]]
    assert names == ["metrics of an image, clean predictions", "metrics of an image, noisy predictions"]
    assert all(line["ours_ms"] > 0 and line["ratio"] is None for line in content["lines"])
    if sys.platform == "linux":
        assert 0.0 <= content["cells"][0]["busy"] <= 1.0
    before = (tmp_path / "results.md").read_text()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished cell was measured again")

    monkeypatch.setattr(cli.subprocess, "run", never)
    assert cli.main([*arguments, "--resume"]) == 0
    assert "metrics of an image, clean predictions" in before
    assert capsys.readouterr().out.count("tuned allocator …") == 1


def test_a_cell_that_fails_is_a_row_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies, one that hangs, and one that answers."""

    def process(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        job = json.loads(command[-1])
        if job["cell"] == "inner":
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nRuntimeError: a broken checkout\n")
        if job["cell"] == "outer":
            raise subprocess.TimeoutExpired(command, 5.0)
        row = {"name": "label initialisation, an image", "ours": [0.25], "reference": [0.5]}
        Path(job["result"]).write_text(json.dumps({"rows": [row], "ceiling": None}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(cli.subprocess, "run", process)
    cells = ["--only", "inner", "outer", "init", "--allocator", "default"]
    assert cli.main([*cells, "--out", str(tmp_path), "--timeout", "5"]) == 1
    text = (tmp_path / "results.md").read_text()
    assert "failed: inner (default): code 1: RuntimeError: a broken checkout" in text
    assert "failed: outer (default): took longer than 5 s" in text
    assert "| label initialisation, an image | 500 | 250 | 2.00 × |" in text


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--reference", str(tmp_path)])
    assert "train.py is missing" in capsys.readouterr().err
