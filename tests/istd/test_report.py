"""The report page: whole, escaped, offline, and honest about what does not compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from istd.errors import CheckpointError, ConfigError
from istd.metrics import DNANET, MetricConvention
from istd.report import read_run, write_report

FIGURES = {"iou": 0.5, "niou": 0.6, "pd": 0.9, "fa": 2e-5, "precision": 0.7, "recall": 0.6, "f1": 0.65}


def write_run(root: Path, seed: int = 0, method: str = "pal", iou: float = 0.5, **changes: Any) -> Path:
    root.mkdir(parents=True)
    config = {"method": method, "backbone": "mlclnet", "seed": seed, "data": "<b>data</b> & more"}
    results = {
        "config": config,
        "metrics": {"test": {"student": {**FIGURES, "iou": iou}}},
        "convention": MetricConvention().to_dict(),
        "split_hash": "a" * 64,
        "selection": {"rule": "val-masks", "epoch": 3, "score": 0.4},
        "images": {"train": 5, "val": 2, "test": 3},
        "vfm": None,
        **changes,
    }
    (root / "config.json").write_text(json.dumps(config))
    (root / "results.json").write_text(json.dumps(results))
    lines = [
        {"event": "epoch", "epoch": e, "loss": 1 / (e + 1), "label_iou_train": 0.1 * e} for e in range(4)
    ]
    (root / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut')
    cv2.imwrite(str(root / "overlays.png"), np.zeros((8, 8), np.uint8))
    return root


class Page(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_figures_protocol_and_pictures_and_loads_nothing(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", method="full", iou=0.71)]
    write_report(runs, tmp_path / "report.html", "A & B")
    page = Page(tmp_path / "report.html")
    for text in (
        "A & B",
        "0.7100",
        "20.0",
        "aaaaaaaaaaaa",
        "val-masks, epoch 3",
        "matching=first",
        "5 / 2 / 3",
    ):
        assert text in page.text
    assert "do not compare" not in page.text
    assert page.tags.count("img") == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http:" not in page.text
    assert "https:" not in page.text


def test_texts_of_a_run_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = write_run(tmp_path / "$x <img src=y>", selection={"rule": evil, "epoch": evil, "score": 0})
    config = {"method": evil, "backbone": '"><b>', "seed": "<i>"}
    (run / "config.json").write_text(json.dumps(config))
    write_report([run], tmp_path / "report.html", evil)
    page = Page(tmp_path / "report.html")
    assert not {"script", "b", "i"} & set(page.tags)
    assert evil in page.text
    assert page.tags.count("img") == 2


def test_what_does_not_compare_is_said(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "one"),
        write_run(tmp_path / "two", split_hash="b" * 64, vfm={"name": "v", "random": True}),
        write_run(tmp_path / "three", convention=DNANET.to_dict()),
        write_run(tmp_path / "four"),
    ]
    (runs[3] / "results.json").unlink()
    write_report(runs, tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    for warning in ("different splits", "different metric conventions", "two: the teacher's", "four has not"):
        assert warning in text


def test_runs_that_differ_in_the_seed_are_averaged(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run{seed}", seed, iou=iou) for seed, iou in enumerate((0.5, 0.6, 0.7))]
    write_report([*runs, write_run(tmp_path / "other", method="full")], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "0.6000 ± 0.1000" in text
    assert "20.0 ± 0.0" in text
    assert text.count("±") == 1 + 5  # the note, and one row


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", "{"),
        ("results.json", "[]"),
        ("config.json", '{"method": "x"}'),
        ("config.json", "\xff"),
    ],
)
def test_damaged_runs_are_named(tmp_path: Path, name: str, content: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_run(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": []},
        {"metrics": {"test": {"student": {"iou": "high"}}}},
        {"images": {"train": 5}},
        {"selection": None},
        {"convention": "mine"},
    ],
    ids=str,
)
def test_results_of_another_shape_are_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", **changes)
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        read_run(run)


def test_other_folders_and_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run"):
        read_run(tmp_path)
    with pytest.raises(ConfigError):
        write_report([], tmp_path / "report.html")
    run = write_run(tmp_path / "run")
    (run / "overlays.png").write_text("<svg onload=alert(1)>")
    assert read_run(run).pictures == []


def test_the_command(istd: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    code, text = istd("report", run, "--out", tmp_path / "page.html")
    assert code == 0, text
    assert "page.html" in text
    assert istd("report", tmp_path / "nowhere", "--out", tmp_path / "no.html")[0] == 2
    assert not (tmp_path / "no.html").exists()
