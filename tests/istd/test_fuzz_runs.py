"""Fuzzing of settings and of the JSON files of a run: taken as they are, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, altered, answer, damaged, fuzz, put
from hypothesis import given
from hypothesis import strategies as st

from istd.cli.train import _parse_settings
from istd.engine import RunFolder, TrainConfig
from istd.engine.config import setting_choices
from istd.engine.prediction_log import PredictionLog
from istd.engine.run_folder import JsonLines, read_lines
from istd.errors import CheckpointError, ConfigError
from istd.metrics import MetricConvention
from istd.report import read_run
from istd.report.page import render_report
from istd.targets import ImageTargets, Target, to_csv

_FIELDS = [item.name for item in dataclasses.fields(TrainConfig)]
_NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1.0, 2, True, 2**63])
_VALUES = _NUMBERS | JSON | st.text(max_size=8) | st.tuples(_NUMBERS)


@st.composite
def settings_of_runs(draw: st.DrawFn) -> dict[str, Any]:
    """Some fields with values of any kind, often one that the field knows."""
    values: dict[str, Any] = {"data": "x"}
    for name in draw(st.lists(st.sampled_from(_FIELDS), max_size=4)):
        choices = setting_choices(name)
        known = st.sampled_from(choices) if choices else st.nothing()
        values[name] = draw(known | _VALUES)
    return values


@fuzz(6)
@given(settings_of_runs())
def test_settings_make_a_configuration_or_are_refused(values: dict[str, Any]) -> None:
    config = answer(lambda: TrainConfig(**values))
    if config is not None:
        written = json.loads(json.dumps(config.to_dict(), allow_nan=False))
        assert TrainConfig.from_dict(written) == config
        assert min(config.evolve_interval, config.outer_interval, config.eval_interval) >= 1
        assert all(getattr(config, name) == value for name, value in values.items() if value is not None)


_TEXTS = st.sampled_from(
    [
        "1",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "none",
        "true",
        "0.5,0.75",
        ",",
        "",
        "9" * 5000,
        "１",
        "a=b",
        "\ud800",
        "0.5",
    ]
)


@fuzz(4)
@given(
    st.lists(
        st.tuples(st.sampled_from([*_FIELDS, "lr-factor", "no", ""]), _TEXTS | st.text(max_size=5)),
        max_size=3,
    )
)
def test_typed_settings_make_a_configuration_or_are_refused(typed: list[tuple[str, str]]) -> None:
    texts = [f"{name}={text}" for name, text in typed]
    config = answer(lambda: TrainConfig(**{"data": "x", **_parse_settings(texts, TrainConfig)}))
    assert config is None or config.epochs >= 1


_CONFIG = TrainConfig(data="x").to_dict()


@fuzz(4)
@given(altered(_CONFIG).map(lambda value: json.dumps(value).encode()) | damaged(json.dumps(_CONFIG).encode()))
def test_config_files_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(folder)
        put(run.config, data)
        config = answer(run.read_config, run.config)
    assert config is None or isinstance(config, TrainConfig)


_FIGURES = {"iou": 0.5, "niou": 0.6, "pd": 0.9, "fa": 2e-5, "precision": 0.7, "recall": 0.6, "f1": 0.65}
_RESULTS: dict[str, Any] = {
    "config": _CONFIG,
    "metrics": {"test": {"student": _FIGURES, "teacher": _FIGURES}, "val": {"student": _FIGURES}},
    "convention": MetricConvention().to_dict(),
    "split_hash": "a" * 64,
    "selection": {"rule": "val-masks", "epoch": 3, "score": 0.4},
    "images": {"train": 5, "val": 2, "test": 3},
    "vfm": {"name": "random", "random": True},
}
_EPOCH = {"event": "epoch", "epoch": 1, "loss": 0.5, "val_student_iou": 0.1, "label_iou_train": 0.2}


@fuzz(2)
@given(altered(_CONFIG), altered(_RESULTS), st.lists(altered(_EPOCH), max_size=3), st.binary(max_size=20))
def test_reports_of_runs_are_made_or_refused(config: Any, results: Any, log: list[Any], rest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run, other = RunFolder(Path(folder) / "one"), RunFolder(Path(folder) / "two")
        for one in (run, other):
            put(one.config, json.dumps(config if one is run else {**_CONFIG, "seed": 1}))
            put(one.results, json.dumps(results if one is run else _RESULTS))
            put(one.log, "".join(json.dumps(line) + "\n" for line in log).encode() + rest)
        summaries = answer(lambda: [read_run(one.root) for one in (run, other)], folder)
        if summaries is None:
            return
        # The curves take a second to draw, and their points were checked when they were read.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("istd.report.page._curves", lambda runs: "data:,")
            page = render_report(summaries)
    assert "<title>istd report</title>" in page


@fuzz(4)
@given(
    st.lists(altered(_EPOCH), max_size=4).map(lambda some: [json.dumps(one) for one in some]),
    st.binary(max_size=30),
)
def test_logs_are_read_up_to_what_is_damaged(lines: list[str], rest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "log.jsonl", "".join(line + "\n" for line in lines).encode() + rest)
        records = list(read_lines(path))
        whole = [json.loads(line) for line in lines]
        expected = [record for record in whole if isinstance(record, dict)]
        assert repr(records[: len(expected)]) == repr(expected)
        log = JsonLines(path)
        assert log.count == len(records)


_ANSWER = ImageTargets(
    "a", "in/a.png", 8, 12, (Target(4.0, 3.0, 4, 0.9, (3, 2, 2, 2), (30, 2, 6, 2, 56)),)
).to_dict()
_LINE = {"stamp": [1, 2], "answer": _ANSWER}


@fuzz(4)
@given(
    altered({"format": 1, "settings": {"tile": 0}}),
    st.lists(altered(_LINE), max_size=2),
    st.binary(max_size=9),
)
def test_answers_of_an_earlier_call_are_taken_or_made_anew(head: Any, lines: list[Any], rest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(json.dumps(line) + "\n" for line in (head, *lines))
        path = put(Path(folder) / "predictions.jsonl", text.encode() + rest)
        log = answer(lambda: PredictionLog(path, {"tile": 0}, resume=True), path)
        if log is not None:
            known = [log.find("a", Path("in/a.png"))]
            assert to_csv([one for one in known if one is not None]).startswith("image,")


# What the fuzzing found.


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"3",
        b'""',
        b"null",
        b"{}",
        b"[" * 100_000,
        b"1" * 5000,
        b"\xff",
        b'{"data": "x", "epochs": [1]}',
    ],
)
def test_a_config_file_that_holds_something_else_is_named(tmp_path: Path, data: bytes) -> None:
    put(tmp_path / "config.json", data)
    with pytest.raises((CheckpointError, ConfigError), match=r"config\.json"):
        RunFolder(tmp_path).read_config()


def test_a_config_file_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        RunFolder(tmp_path).read_config()


@pytest.mark.parametrize("values", [{"epochs": 10**400}, {"method": []}, {"crop": 10**6}, {"lr": -(10**400)}])
def test_settings_that_no_machine_takes_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(data="x", **values)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"1" * 5000])
def test_a_log_ends_at_a_line_that_python_cannot_take(tmp_path: Path, line: bytes) -> None:
    path = put(tmp_path / "log.jsonl", b'{"event": "epoch"}\n' + line + b"\n{}\n")
    assert list(read_lines(path)) == [{"event": "epoch"}]


@pytest.mark.parametrize(("name", "value"), [("seed", []), ("method", {}), ("backbone", None)])
def test_a_report_names_a_configuration_that_it_cannot_show(tmp_path: Path, name: str, value: Any) -> None:
    put(tmp_path / "config.json", json.dumps({**_CONFIG, name: value}))
    put(tmp_path / "results.json", json.dumps(_RESULTS))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), True])
def test_a_report_names_figures_that_are_none(tmp_path: Path, value: Any) -> None:
    put(tmp_path / "config.json", json.dumps(_CONFIG))
    metrics = {"test": {"student": {**_FIGURES, "iou": value}}}
    put(tmp_path / "results.json", json.dumps({**_RESULTS, "metrics": metrics}))
    with pytest.raises(CheckpointError, match=r"results\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "change", [{"name": []}, {"height": "8"}, {"targets": [{**_ANSWER["targets"][0], "x": "4"}]}]
)
def test_answers_of_other_types_are_made_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    head = {"format": 1, "settings": {}}
    line = {**_LINE, "answer": {**_ANSWER, **change}}
    path = put(tmp_path / "predictions.jsonl", f"{json.dumps(head)}\n{json.dumps(line)}\n")
    assert PredictionLog(path, {}, resume=True).find("a", Path("in/a.png")) is None
