"""The benchmark of scale, and by its figures: memory that does not grow with the number of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from scale import cells, cli
from scale.report import Growth, growths, markdown
from scale.rows import Recorder, Row

ABOUT = {
    "command": "x",
    "machine": {"processor": "p"},
    "versions": {"python": "3", "torch": "2"},
    "quick": False,
}
PIXELS = 128 * 128
LITTLE = 6e3  # bytes for one image more: names, points, label; its pixels and mask are 32.8 kB


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """64 and 192 images of 128² through every step of a run, in memory and streamed."""
    out = tmp_path_factory.mktemp("scale")
    assert cli.main(["--quick", "--only", "growth", "--out", str(out)]) == 0
    assert (out / "plot.png").stat().st_size > 0
    assert "### A million images" in (out / "results.md").read_text(encoding="utf-8")
    assert "python benchmarks/scale_bench.py --quick" in (out / "results.md").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return content


def found(measured: dict[str, Any], streamed: bool) -> dict[str, Growth]:
    return growths([Row(**row) for row in measured["rows"]], streamed)


linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a step is read from Linux's /proc")


@pytest.mark.slow
@linux
def test_memory_does_not_grow_with_streamed_images(measured: dict[str, Any]) -> None:
    steps = found(measured, streamed=True)
    for what in ("packing", "loading", "first labels", "evolving labels", "resuming labels", "evaluating"):
        assert steps[what].peak < LITTLE, (what, steps[what])
    assert sum(steps[what].stays for what in ("loading", "first labels", "evolving labels")) < LITTLE


@pytest.mark.slow
@linux
def test_memory_grows_by_the_pixels_alone_where_they_are_held(measured: dict[str, Any]) -> None:
    steps = found(measured, streamed=False)
    assert 1.8 * PIXELS < steps["loading"].stays < 2.2 * PIXELS, "an image and its mask, a byte a pixel each"
    assert steps["loading"].peak < 2.3 * PIXELS, "and nothing twice"
    for what in ("first labels", "evolving labels", "resuming labels", "evaluating"):
        assert steps[what].peak < LITTLE, (what, steps[what])


def test_growth_is_the_difference_and_a_million_images_its_multiple() -> None:
    rows = []
    for streamed in (False, True):
        for count in (10, 20):
            at = {"images": count, "side": 64, "streamed": streamed}
            for what in ("packing", "loading", "first labels", "evolving labels", "evaluating"):
                rows.append(
                    Row(
                        "growth", what, at, 5.0 + 0.036 * count, count, 1000 + 7 * count, 3 * count, 9 * count
                    )
                )
            rows.append(Row("growth", "cutting a crop", at, 1.0, 4, 0, 0))
    one = growths(rows, True)["loading"]
    assert (one.seconds, one.peak, one.stays, one.disk) == (pytest.approx(0.036), 7.0, 3.0, 9.0)
    assert growths(rows, True)["cutting a crop"].seconds == 0.25
    rows += [
        Row("clustering", "fit", {"images": n, "K": k}, 0.0864, n, 0, 0)
        for n in (10, 1000)
        for k in (None, 4)
    ]
    rows.append(Row("sizes", "describing for the clusters", {"height": 64, "width": 64}, 0.072, 1, 0, 0))
    text = markdown(rows, ABOUT, ["a remark"])
    assert "**a remark**" in text
    assert "| packed file | 9 MB |" in text
    assert "| pixels and masks in memory | 8.19 GB |" in text
    assert "| packing | 10 CPU h |" in text
    assert "| describing for the clusters | 20 CPU h |" in text
    assert "| first labels |" not in text.partition("### A million images")[2], "sizes were not measured"
    assert "| clustering, a cluster for 11 images (grows as N²) | 1 days |" in text


@pytest.mark.slow
def test_a_job_that_fails_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Some:
        def jobs(self, quick: bool) -> list[dict[str, Any]]:
            return [{"images": 60, "K": 4}, {"images": 0, "K": 4}]

    monkeypatch.setitem(cells.CELLS, "clusters", Some())  # the worker has its own: only the jobs are replaced
    assert cli.main(["--only", "clusters", "--out", str(tmp_path)]) == 1
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["at"]["images"] for row in content["rows"]] == [60]
    assert "no images to cluster" in content["failures"][0]
    assert "no images to cluster" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_share_a_run(tmp_path: Path) -> None:
    """A row of each process for each thing they do, and a table of them."""
    assert cli.main(["--quick", "--only", "ranks", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rows = [Row(**row) for row in content["rows"]]
    by_place = {(row.at["ranks"], row.at["rank"], row.what): row for row in rows}
    assert len(by_place) == len(rows) == 3 * (1 + 2)
    assert all(row.wall is not None and row.wall > 0 and row.seconds > 0 for row in rows)
    assert {row.count for row in rows if row.what == "an evolution of all labels"} == {8}
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "### Against the number of processes" in text
    assert [line.split(" | ")[0] for line in text.splitlines()[-2:]] == ["| 1", "| 2"]


def test_a_peak_is_what_was_in_use(tmp_path: Path) -> None:
    recorder = Recorder("cell", {})
    # Above 32 MiB glibc always asks for new pages; below, memory that earlier tests have freed may do.
    kept = recorder.measure("a", lambda: np.ones(60_000_000, np.uint8)[:40_000_000].copy())
    if sys.platform == "linux":
        assert 95e6 < recorder.rows[0].peak < 115e6
        assert 35e6 < recorder.rows[0].stays < 55e6
    assert len(kept) == 40_000_000
