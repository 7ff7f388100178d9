"""The detection benchmark: cells that resume, fail, and are counted; tables from cells made by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from common.processes import worker_environment
from detection import aggregate, presets, tables
from detection.axes import Axis, find_axis
from detection.bench import Bench
from detection.cells import Base, Cell, Recipe, plan
from detection.cli import run as run_command
from detection.options import parse_settings, spread_values
from detection.pool import Limits
from detection.presets import Preset
from detection.probe import Probe, read_probes
from detection.protocol import _labels
from detection.report import make_report, write_report
from detection.small_unet import SmallUNet
from detection.store import CellFolder, Store, read_json
from detection.worker import make_cell

from istd.data import SyntheticDataset, pack
from istd.engine import RunFolder, load_state
from istd.engine import results as results_module
from istd.engine.pack_cache import packed
from istd.engine.run_folder import JsonLines
from istd.errors import CheckpointError, ConfigError

TINY = Preset(
    about="",
    settings={
        "vfm": "random:test_vit",
        "epochs": 3,
        "crop": 32,
        "batch_size": 4,
        "clusters": 4,
        "evolve_every": 1,
        "outer_every": 1,
        "outer_steps": 1,
        "eval_every": 2,
        "lr": 2e-3,
    },
    probes=2,
    probe_steps=(1,),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "synthetic.h5"
    pack(SyntheticDataset(num_train=10, num_val=3, num_test=3, size=(40, 48), seed=3), path)
    return path


def make_bench(out: Path, base: Base, **limits: Any) -> Bench:
    return Bench(
        store=Store(out / "cells", lambda: packed(base.data).content_hash()),
        out=out,
        base=base,
        limits=Limits(**limits),
        command="command",
        cell_command=lambda cell: f"command for {cell.slug}",
        console=Console(quiet=True),
    )


def cells_of(base: Base, *recipes: Recipe, probe: dict[str, Any] | None = None) -> list[Cell]:
    return [Cell(recipe, recipe.config(base), (("table", ""),), probe) for recipe in recipes]


def job_of(cell: Cell) -> dict[str, Any]:
    places = [list(place) for place in cell.places]
    about = {"label": cell.recipe.label, "slug": cell.slug, "places": places, "command": "", "code": {}}
    return {**about, "recipe": vars(cell.recipe), "threads": 1, "memory_limit": 0, "request": cell.request}


def weights(folder: CellFolder) -> dict[str, torch.Tensor]:
    found = {}
    for kind in ("student", "teacher"):
        state = load_state(folder.run / "checkpoints" / f"{kind}.safetensors", kind=kind)
        found.update({f"{kind}.{name}": value for name, value in state["weights"].items()})
    return found


@pytest.mark.slow
def test_a_killed_cell_goes_on_and_the_probe_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Base.of("tiny", TINY, str(data))
    (probed,) = cells_of(base, Recipe("mlclnet", "semantic-prior", 0, {}), probe={"count": 2, "steps": [1]})
    (plain,) = cells_of(base, Recipe("mlclnet", "semantic-prior", 0, {}))
    store, other_store = Store(tmp_path / "killed"), Store(tmp_path / "whole")

    # Probed, and killed after its first epoch was saved, in a process of its own.
    folder = store.prepare(probed, job_of(probed))
    process = subprocess.Popen(
        [sys.executable, "-m", "detection.worker", str(folder.root)],
        env=worker_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # The log and the usage are written before the checkpoint: it is the checkpoint that counts.
    checkpoint = RunFolder(folder.run).checkpoint
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not folder.result.exists()

    for name in ("plot_curves", "plot_overlays", "plot_gallery"):
        monkeypatch.setattr(results_module, name, lambda *arguments, **options: None)
    again = store.prepare(probed, job_of(probed))
    one = make_cell(again, job_of(probed))
    # Neither killed nor probed: what is trained must be the same, bit for bit.
    whole = other_store.prepare(plain, job_of(plain))
    other = make_cell(whole, job_of(plain))

    assert (one["usage_total"]["processes"], other["usage_total"]["processes"]) == (2, 1)
    for key in ("metrics", "groups", "curves", "labels", "selection", "split_hash"):
        assert one[key] == other[key], key
    found, expected = weights(again), weights(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())

    # The probe looked at two of the three visits, once at each.
    assert [record["epoch"] for record in one["probes"]] == [0, 2]
    cosines = [record["exact"]["1"]["cosine"] for record in one["probes"]]
    assert all(cosine is not None and 0 < abs(cosine) <= 1 for cosine in cosines)
    assert one["usage"]["probe_seconds"] > 0
    assert other["probes"] == []

    # What is done is kept; a cell of another request is made again.
    other_store.save(plain, other)
    assert (other_store.load(plain) or {})["metrics"] == other["metrics"]
    assert other_store.load(probed) is None
    assert other_store.different(probed) == ["probe"]
    store.save(probed, one)
    assert (store.load(plain) or {})["probes"] == one["probes"]  # more than was asked for


@pytest.mark.slow
def test_failing_cells_are_rows_and_do_not_stop_others(data: Path, tmp_path: Path) -> None:
    base = Base.of("tiny", TINY, str(data), {"": {"epochs": 1}})
    bad, good = cells_of(
        base,
        Recipe("mlclnet", "semantic-prior", 0, {"vfm": "no-such-model"}),
        Recipe("smallunet", "small-unet, static contrast labels", 0, {}),
    )
    bench = make_bench(tmp_path, base, jobs=2)
    bench.run([bad, good])
    results, _ = bench.results([bad, good])
    assert [one["status"] for one in results] == ["failed", "ok"]
    assert "no-such-model" in results[0]["reason"]
    assert not bench.report([bad, good])
    page = (tmp_path / "results.md").read_text()
    assert "no-such-model" in page
    assert "| smallunet | small-unet, static contrast labels | 1 |" in page
    content = json.loads((tmp_path / "results.json").read_text())
    assert str(data.parent) not in json.dumps(content)
    # The labels never evolved.
    assert len({value for _, value in results[1]["curves"]["label_iou"]}) == 1

    # A killed process is a row too.
    (late,) = cells_of(base, Recipe("mlclnet", "full", 0, {}))
    slow = make_bench(tmp_path, base, timeout=0.3)
    slow.run([late])
    (result, *others), _ = slow.results([late])
    assert [one["slug"] for one in others] == [bad.slug, good.slug]
    assert (result["status"], result["reason"]) == ("failed", "took longer than 0.3 s")


def test_two_benchmarks_in_one_folder_are_refused(tmp_path: Path) -> None:
    other = RunFolder(tmp_path)
    other.acquire()
    try:
        with pytest.raises(CheckpointError, match="another process"):
            make_bench(tmp_path, Base.of("tiny", TINY, "d")).run([])
    finally:
        other.release()
    make_bench(tmp_path, Base.of("tiny", TINY, "d")).run([])


def test_the_plan_makes_each_cell_once_and_seeds_come_first() -> None:
    base = Base.of("tiny", TINY, "d", {"lesps": {"lr": 5e-4}})
    cells = plan(
        base,
        TINY,
        methods=presets.METHODS,
        backbones=("mlclnet", "alclnet"),
        seeds=(0, 1),
        axes=dict([find_axis("hypergradient"), find_axis("lr=0.1,0.2")]),
        ablation_seeds=1,
    )
    main = [cell for cell in cells if ("table", "") in cell.places]
    assert [cell.recipe.seed for cell in main] == [0] * 14 + [1] * 14
    assert len({cell.slug for cell in cells}) == len(cells) == 28 + 2 * (4 + 2)
    ours = next(cell for cell in cells if cell.recipe == Recipe("mlclnet", "semantic-prior", 0, {}))
    assert ours.places == (("table", ""), ("hypergradient", "gauss-newton"))
    assert ours.probe == {"count": 2, "steps": [1]}
    assert {cell.config["lr"] for cell in cells if cell.recipe.row == "lesps"} == {5e-4}
    static = next(cell for cell in cells if cell.recipe.row == "small-unet, static contrast labels")
    assert (static.config["backbone"], static.config["evolve_start"]) == ("smallunet", 1.0)
    off = next(cell for cell in cells if cell.recipe.changes == {"hypergradient": "off"})
    assert off.probe is None


def result(row: str, seed: int, iou: float, teacher: float | None = None, **more: Any) -> dict[str, Any]:
    scores = {"student": {"iou": iou, "niou": iou + 0.1, "pd": 0.9, "fa": 2e-5}}
    if teacher is not None:
        scores["teacher"] = {**scores["student"], "iou": teacher}
    group = {"salient": {"targets": 5, "pd": iou, "target_iou": iou / 2}}
    return {
        "status": "ok",
        "reason": "",
        "label": f"{row} {seed}",
        "recipe": {"backbone": "mlclnet", "row": row, "seed": seed, "changes": {}},
        "places": [["table", ""]],
        "metrics": {"test": scores},
        "groups": dict.fromkeys(scores, group),
        "curves": {"label_iou": [[1, 0.5], [2, 0.6]], "val_student_iou": []},
        "probes": [],
        "usage": {"seconds": 30.0, "cpu_seconds": 25.0, "probe_seconds": 10.0, "probe_cpu_seconds": 5.0},
        "usage_total": {"peak_bytes": 5e8},
        **more,
    }


def test_figures_are_means_with_their_spread_over_seeds(tmp_path: Path) -> None:
    failed = {**result("full", 2, 0.0), "status": "failed", "reason": "no memory"}
    ours = [result("semantic-prior", seed, iou, iou + 0.1) for seed, iou in ((0, 0.7), (1, 0.5))]
    cells = [
        *ours,
        *(result("full", seed, iou) for seed, iou in ((0, 0.8), (1, 0.6))),
        failed,
        *(result("pal", seed, iou) for seed, iou in ((0, 0.6), (1, 0.55))),
        {**result(presets.PAL_PUBLISHED, 0, 0.0), "status": "pending"},
        result("lesps", 0, 0.3),
    ]
    lines = {line.name: line for line in aggregate.main_lines(cells)}
    assert list(lines) == [
        *("full", "lesps", presets.PAL_PUBLISHED, "pal", aggregate.TEACHER, aggregate.STUDENT)
    ]
    student = lines[aggregate.STUDENT]
    assert student.values["iou"].mean == pytest.approx(0.6)
    assert student.values["iou"].std == pytest.approx(0.2 / 2**0.5)  # of a sample
    assert student.ratio == pytest.approx(1.2 / 1.4)
    assert student.values["seconds"].mean == 20
    assert lines[aggregate.TEACHER].values["iou"].mean == pytest.approx(0.7)
    assert lines["full"].failed == {2: "no memory"}
    assert lines["full"].seeds == (0, 1)
    assert lines["lesps"].values["iou"].std is None

    order = aggregate.order(list(lines.values()))
    assert [(one["better"], one["holds"], one["holds_for_every_seed"]) for one in order] == [
        (aggregate.STUDENT, True, False),
        ("pal", True, True),
    ]
    assert order[0]["differences"] == pytest.approx({"0": 0.1, "1": -0.05})
    assert order[1]["differences"] == pytest.approx({"0": 0.3})  # only the seed that both have

    table = tables.main_table(list(lines.values()))
    shown = {row[1]: row for row in table.rows}
    scores = ("2", "60.0 ± 14.1", "70.0 ± 14.1", "90.0 ± 0.0", "20.0 ± 0.0", "85.7")
    assert shown[aggregate.STUDENT][2:8] == scores
    assert shown[aggregate.STUDENT][8] == "50.0 ± 0.0 → 60.0 ± 0.0"
    assert shown[aggregate.STUDENT][-2:] == ("62.63", "")
    published = shown[f"{presets.PAL_PUBLISHED} (1 pending)"]
    assert (published[-2:], shown["pal"][-2:]) == (("60.20", "67.64"), ("", ""))
    assert "full (1 failed)" in shown
    groups = {(one["name"], one["group"]): one for one in aggregate.group_lines(cells)}
    assert groups[("pal", "salient")]["pd"]["mean"] == pytest.approx(0.575)
    assert groups[("pal", "salient")]["targets"] == 5


def test_probes_are_averaged_over_a_run_first() -> None:
    def probe(cosine: float) -> dict[str, Any]:
        exact = {"1": {"cosine": cosine, "norm_ratio": 2.0, "relative_error": 1.0, "seconds": 1.0}}
        return {"epoch": 0, "seconds": 0.5, "peak_bytes": 3e6, "exact": exact}

    runs = [{"probes": [probe(1.0), probe(0.0), {"epoch": 4, "failure": "x"}]}, {"probes": [probe(0.2)]}]
    found = aggregate.hypergradient_values(runs)
    assert found["cosine_1"] == [0.5, 0.2]
    assert found["hypergradient_mb"] == [3.0, 3.0]
    assert "ihvp_residual" not in found


def test_the_protocol_says_whose_masks_chose_how_labels_start() -> None:
    masks, points = {"recipe": {"row": "full"}}, {"recipe": {"row": "pal"}, "labels": {"init": "levels"}}
    (said,) = _labels([masks, points])
    assert re.fullmatch(r"First labels: pal levels\. .*, `levels` by .* SIRST v1's training split\.", said)


def test_a_line_that_a_kill_cut_off_costs_that_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 2, "exa')
    Probe(path, 2, (1,))
    JsonLines(path).append({"epoch": 2})
    assert read_probes(path) == [{"epoch": 0}, {"epoch": 2}]


def test_an_ablation_has_a_line_for_each_value() -> None:
    off = result("semantic-prior", 0, 0.4)
    off |= {
        "places": [["hypergradient", "off"]],
        "recipe": {**off["recipe"], "changes": {"hypergradient": "off"}},
    }
    both = {**result("semantic-prior", 0, 0.5), "places": [["table", ""], ["hypergradient", "gauss-newton"]]}
    lines = aggregate.axis_lines([both, off, result("full", 0, 0.8)])["hypergradient"]
    assert [(line.name, line.values["iou"].mean, line.ratio) for line in lines] == [
        ("gauss-newton", 0.5, pytest.approx(0.625)),
        ("off", 0.4, pytest.approx(0.5)),
    ]
    assert tables.axis_table("hypergradient", lines).rows[1][1] == "off"
    # Only what was probed is compared with exact hypergradients.
    assert tables.probe_table("hypergradient", lines).rows == []
    exact = {"1": {"cosine": 0.25, "norm_ratio": 3.0, "relative_error": 1.0, "seconds": 1.0}}
    probed = {**both, "probes": [{"epoch": 0, "seconds": 0.5, "peak_bytes": 3e6, "exact": exact}]}
    lines = aggregate.axis_lines([probed, off, result("full", 0, 0.8)])["hypergradient"]
    assert tables.probe_table("hypergradient", lines).rows == [
        ("mlclnet", "gauss-newton", "1", "0.25", "3", "500", "3", "", "")
    ]


def test_a_report_of_pending_cells_can_be_written(tmp_path: Path) -> None:
    pending = {"status": "pending", "reason": "not run yet", "label": "x", "places": [["table", ""]]}
    pending["recipe"] = {"backbone": "mlclnet", "row": "full", "seed": 0, "changes": {}}
    write_report(make_report([pending], "command", 0), tmp_path, "title")
    assert "full (1 pending)" in (tmp_path / "results.md").read_text()
    assert (read_json(tmp_path / "results.json") or {})["lines"][0]["pending"] == 1


def test_what_is_typed() -> None:
    typed = ["--seeds", "0", "1", "--ablations", "--jobs", "2", "--set", "lr=1"]
    assert spread_values(typed) == [
        *("--seeds", "0", "--seeds", "1", "--ablations", "none", "--jobs", "2", "--set", "lr=1")
    ]
    assert parse_settings(["lr=0.5", "lesps.lr=1e-3", "small-unet.epochs=3"]) == {
        "": {"lr": 0.5},
        "lesps": {"lr": 1e-3},
        "small-unet": {"epochs": 3},
    }
    for wrong in ("seed=1", "nothing=1", "yolo.lr=1", "lr"):
        with pytest.raises(ConfigError, match="--set"):
            parse_settings([wrong])
    assert find_axis("outer-steps=1,4")[1] == Axis("outer_steps", "outer_steps", {"1": 1, "4": 4})
    with pytest.raises(ConfigError, match="values"):
        find_axis("lr")


def test_a_command_without_data_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["--preset", "sirst", "--out", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err


def test_the_small_unet_is_small_and_takes_any_size() -> None:
    net = SmallUNet(3, prior=0.01).eval()
    assert 1.0e5 < sum(parameter.numel() for parameter in net.parameters()) < 1.3e5
    answer = net(torch.rand(1, 1, 37, 50))
    assert answer.shape == (1, 1, 37, 50)
    assert float(answer.detach().sigmoid().mean()) == pytest.approx(0.01, abs=0.005)
