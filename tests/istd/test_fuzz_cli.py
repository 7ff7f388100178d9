"""Fuzzing of the command line: any arguments end with exit code 0, 1, 2 or 130, never with a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from fuzzing import fuzz, put
from hypothesis import given
from hypothesis import strategies as st

from istd.cli import app as cli

_WORDS = """
train eval predict export report doctor points synth pack labels annotate demo nonsense

--data --method --backbone --vfm --epochs --crop --batch-size --seed --out --resume --device --set --layout
--mask-threshold --force --role --tile --overlap --tta --threshold --min-area --save --tables --recursive
--skip-existing --title --fail-on --json --all --no-scenes --kind --split --points --port --convention --count
--image --columns --no-gif --train --val --test --height --bits --help --nonsense -x --

0 1 -1 nan inf 1e400 x none empty broken images run a.png points.csv file.h5 ~nobody-there lr=nan lr= = help
seed=1 ü [red] *.png coarse test student masks,no cuda:99 meta masks ./ ../
"""
_COMMANDS, _OPTIONS, _VALUES = (block.split() for block in _WORDS.strip().split("\n\n"))
_VALUES += ["", "\udcff", "a" * 5000, "9" * 5000, "epochs=" + "9" * 400]


def _workplace(root: Path) -> None:
    put(root / "a.png", b"not an image")
    put(root / "points.csv", "name,y\n")
    put(root / "file.h5", b"\x89HDF\r\n\x1a\n")
    put(root / "run" / "config.json", "[]")
    put(root / "images" / "images" / "a.png", b"")
    put(root / "broken" / "images" / "a.png", b"\x89PNG\r\n\x1a\n")
    put(root / "broken" / "train.txt", "../a\n")
    (root / "empty").mkdir()


def _run(arguments: list[str]) -> tuple[object, str]:
    """The exit code and what was printed, in a folder with a few broken things."""
    before = Path.cwd()
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        _workplace(Path(folder))
        os.chdir(folder)
        patch.setattr(sys, "argv", ["istd", *arguments])
        patch.setenv("HOME", folder)
        # What would never end, or learn for minutes, is not what is tried here.
        patch.setattr("istd.annotate.AnnotationServer.serve_forever", _interrupted)
        patch.setattr("istd.engine.Trainer.fit", _interrupted)
        patch.setattr("istd.data.SyntheticDataset._read", _interrupted)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                code = cli.run()
        finally:
            os.chdir(before)
    out.flush()
    return code, out.buffer.getvalue().decode()  # type: ignore[attr-defined]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@fuzz(3)
@given(
    st.sampled_from(_COMMANDS),
    st.lists(st.sampled_from(_OPTIONS) | st.sampled_from(_VALUES), max_size=6),
)
def test_any_arguments_end_with_a_code_and_no_traceback(command: str, rest: list[str]) -> None:
    code, printed = _run([command, *rest])
    assert code in (0, 1, 2, 130)
    assert "Traceback" not in printed
    assert code != 2 or printed.strip()


# What the fuzzing found.


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "~nobody-there"],
        ["doctor", "a" * 5000],
        ["predict", "a" * 5000, "a.png"],
        ["predict", "run", "~nobody-there"],
        ["eval", "a" * 5000],
        ["labels", "a" * 5000],
        ["report", "run"],
        ["pack", "~nobody-there"],
        ["train", "--data", "~nobody-there"],
        ["train", "--data", "empty", "--set", "epochs=" + "9" * 400],
        ["train", "--resume", "--out", "run"],
        ["doctor", "\udcff"],
    ],
)
def test_paths_and_numbers_that_cannot_be_are_named(arguments: list[str]) -> None:
    code, printed = _run(arguments)
    assert code == 2
    assert "error" in printed
