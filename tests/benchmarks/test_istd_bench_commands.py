"""The command that stands with each cell of the detection benchmark."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from detection import presets
from detection.axes import find_axis
from detection.cells import Base, Cell, plan
from detection.cli import _cell_command


def test_the_command_of_a_cell_makes_that_cell() -> None:
    base = Base.of("smoke", presets.SMOKE, "data.h5", {})

    def planned(methods: Sequence[str], seeds: Sequence[int], ablations: Sequence[str]) -> list[Cell]:
        axes = dict(map(find_axis, ablations))
        everything = {"methods": methods, "backbones": ("mlclnet",), "seeds": seeds, "axes": axes}
        return plan(base, presets.SMOKE, **everything, ablation_seeds=1)

    cells = planned(presets.METHODS, (0, 1), ("hypergradient", "trusted"))
    assert len(cells) == 22
    for cell in cells:
        words = shlex.split(_cell_command("smoke", "", [], 1, cell))
        options = {word: words[at + 1] for at, word in enumerate(words) if word.startswith("--")}
        assert options["--methods"] in presets.METHODS
        ablations = [] if options["--ablations"] == "none" else [options["--ablations"]]
        made = planned([options["--methods"]], [int(options["--seeds"])], ablations)
        (again,) = [one for one in made if fnmatch(one.slug, options["--only"])]
        assert again.request == cell.request
