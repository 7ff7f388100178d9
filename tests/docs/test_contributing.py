"""Every example of CONTRIBUTING.md runs on its own, as a reader would type it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from istd.data.layouts import _registry as layouts
from istd.engine.methods import registry as methods
from istd.engine.presets import METHOD_PRESETS
from istd.labels import _initial as starts
from istd.models import registry as models

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(
    re.findall(r"^## Add (?:a|an) ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", TEXT, re.M | re.S)
)


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples write and register; other tests must not see it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))
    with ExitStack() as stack:
        for registry in (
            layouts._LAYOUTS, methods._METHODS, METHOD_PRESETS, starts._REGISTRY, models._ENTRYPOINTS
        ):  # fmt: skip
            stack.enter_context(patch.dict(registry))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        yield


@pytest.mark.parametrize("topic", EXAMPLES)
def test_example(topic: str) -> None:
    line = TEXT.count("\n", 0, TEXT.index(EXAMPLES[topic]))
    code = compile("\n" * line + EXAMPLES[topic], "CONTRIBUTING.md", "exec", dont_inherit=True)
    exec(code, {"__name__": topic})


def test_every_kind_of_piece_has_an_example() -> None:
    assert list(EXAMPLES) == [
        "backbone",
        "hypergradient method",
        "dataset layout",
        "label initialisation",
        "training method",
    ]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w.]+/[\w./]+)`", TEXT))))
def test_every_path_is_there(name: str) -> None:
    made = (".venv/", "dist/")  # by `make` and by a release
    assert name.startswith(made) or (ROOT / name).exists()
