"""Stored cells: what still counts, what is kept aside, and files that cannot be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from detection.axes import AXES, find_axis
from detection.bench import Bench
from detection.cells import Base, Cell, Recipe, plan
from detection.pool import Limits
from detection.presets import PRESETS
from detection.protocol import _differences
from detection.report import make_report
from detection.store import Store, read_json

BASE = Base.of("smoke", PRESETS["smoke"], "/home/me/d.h5")
CELL = Cell(Recipe("mlclnet", "full", 0, {}), Recipe("mlclnet", "full", 0, {}).config(BASE), (("table", ""),))


def job(**more: Any) -> dict[str, Any]:
    recipe = CELL.recipe
    return {
        "recipe": vars(recipe),
        "label": recipe.label,
        "slug": CELL.slug,
        "places": [["table", ""]],
        **more,
    }


def made(**more: Any) -> dict[str, Any]:
    measured = {key: {} for key in ("metrics", "groups", "curves", "usage", "usage_total")}
    return {**job(request=CELL.request), "status": "ok", "reason": "", "probes": [], **measured, **more}


def test_cells_of_other_images_are_made_again_and_the_old_ones_kept(tmp_path: Path) -> None:
    asked: list[str] = []

    def now() -> str:
        asked.append("")
        return "new"

    Store(tmp_path).prepare(CELL, job())
    store = Store(tmp_path, now)
    store.save(CELL, made())  # of a version that did not note the images
    assert store.load(CELL) is not None
    assert not asked
    folder = store.prepare(CELL, job())
    assert read_json(folder.job) == {**job(), "data_hash": "new", "request": CELL.request}
    store.save(CELL, made(data_hash="new"))
    assert store.load(CELL) is not None
    assert store.different(CELL) == []
    assert len(asked) == 1

    later = Store(tmp_path, lambda: "newer")
    assert later.load(CELL) is None
    assert later.different(CELL) == ["images"]
    assert later.others(BASE, set()) == ([], 1)
    again = later.prepare(CELL, job())
    assert [path.name for path in again.root.iterdir()] == ["job.json"]
    (old,) = (tmp_path / "replaced").iterdir()
    assert (read_json(old / "cell.json") or {})["data_hash"] == "new"
    # What was begun on these images goes on.
    again.usage.write_text("{}")
    assert later.prepare(CELL, job()).usage.exists()
    later.save(CELL, made(data_hash="newest"))
    Store(tmp_path, lambda: "newest").prepare(CELL, job())
    assert len(list((tmp_path / "replaced").iterdir())) == 2


def test_stored_cells_of_other_settings_are_left_out(tmp_path: Path) -> None:
    changed = Base.of("smoke", PRESETS["smoke"], BASE.data, {"full": {"lr": 1.0}})
    store = Store(tmp_path)
    store.save(CELL, made())
    assert store.others(BASE, {"planned"}) == ([made()], 0)
    assert store.others(changed, {"planned"}) == ([], 1)
    assert store.others(BASE, {CELL.slug}) == ([], 0)


def test_a_setting_that_came_later_leaves_stored_cells_as_they_are(tmp_path: Path) -> None:
    older = {name: value for name, value in CELL.config.items() if name != "distractor_fraction"}
    store = Store(tmp_path)
    stored = made(request={"config": older, "probe": None})
    store.save(CELL, stored)
    assert store.load(CELL) == stored
    used = Base.of("smoke", PRESETS["smoke"], BASE.data, {"": {"distractor_fraction": 0.1}})
    assert store.load(Cell(CELL.recipe, CELL.recipe.config(used), CELL.places)) is None


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "{}",
        json.dumps({**made(), "request": {}}),
        json.dumps({**made(), "request": {"config": {**CELL.config, "hypergradient": "of tomorrow"}}}),
        *(json.dumps({k: v for k, v in made().items() if k != name}) for name in made() if name != "status"),
        json.dumps({**made(), "status": "done"}),
    ],
)
def test_a_file_that_cannot_be_read_is_no_result(tmp_path: Path, damaged: str) -> None:
    store = Store(tmp_path)
    for name in (CELL.slug, "foreign"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cell.json").write_text(damaged)
        (tmp_path / name / "job.json").write_text(damaged)
    assert store.load(CELL) is None
    store.different(CELL)
    same, foreign = store.others(BASE, {CELL.slug})
    assert (same, foreign) == ([], 1)
    bench = Bench(
        store=store,
        out=tmp_path,
        base=BASE,
        limits=Limits(),
        command="",
        cell_command=lambda cell: "",
        console=Console(quiet=True),
    )
    assert not bench.report([CELL])


def test_every_ablation_can_be_planned() -> None:
    for name in AXES:
        axes = dict([find_axis(name)])
        cells = plan(
            BASE,
            PRESETS["smoke"],
            methods=["semantic-prior"],
            backbones=["mlclnet"],
            seeds=[0],
            axes=axes,
            ablation_seeds=1,
        )
        shown = [value for cell in cells for axis, value in cell.places if axis == name]
        assert len(shown) == len(axes[name].variants()) >= 2
    (learned,) = (changes for shown, changes in AXES["init"].variants().items() if "learned" in shown)
    assert learned == {"label_init": "learned", "trusted_masks": 10}
    assert "learned, trusted_masks 10" in AXES["init"].variants()


def test_a_page_has_no_path_of_this_machine() -> None:
    reason = "/home/me/d.h5: no file ~/x/y.pt or '/tmp/a-b/c.json'; 3/4 of 1e-3/s, as in docs/guide"
    failed = made(status="failed", reason=reason)
    (cell,) = make_report([failed], "", 0).data["cells"]
    assert cell["reason"] == "d.h5: no file y.pt or 'c.json'; 3/4 of 1e-3/s, as in docs/guide"
    assert cell["request"]["config"]["data"] == "d.h5"


def test_the_protocol_names_settings_in_which_rows_differ() -> None:
    def cell(row: str, **config: Any) -> dict[str, Any]:
        return {"recipe": {"row": row}, "request": {"config": {"lr": 1, "seed": row, **config}}}

    assert _differences([cell("full"), cell("pal"), cell("lesps", lr=2)]) == [
        "Where rows differ: lr 1, but 2 for lesps."
    ]
    assert _differences([cell("full"), cell("pal")]) == []
