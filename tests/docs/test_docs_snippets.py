"""Every ```python block of the documentation runs, page by page, as a reader would type it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from istd import create_model, load_detector
from istd.export import Deployed, export_onnx

DOCS = Path(__file__).resolve().parents[2] / "docs"
_FENCE = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
RECORDED = DOCS.parent / "tests" / "data" / "backbones_reference.npz"
PAGES = sorted(page for page in DOCS.rglob("*.md") if _FENCE.search(page.read_text(encoding="utf-8")))


def run(page: Path) -> dict[str, Any]:
    """Run the blocks of a page in order, in one namespace; a traceback names the page and its line."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page.stem}
    for block in _FENCE.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        code = "\n" * line + textwrap.dedent(block["code"])
        exec(compile(code, str(page), "exec", dont_inherit=True), names)
    return names


def write_published_weights() -> None:
    """Weights of MSHNet in its authors' naming, of any values, where the page looks for them."""
    with np.load(RECORDED, allow_pickle=False) as recorded:
        names, shapes = recorded["mshnet.names"], recorded["mshnet.shapes"]
    sizes = [tuple(int(length) for length in str(shape).split(",") if length) for shape in shapes]
    weights = {str(name): torch.rand(size) / 100 for name, size in zip(names, sizes, strict=True)}
    torch.save({"state_dict": weights}, "MSHNet.pth")


def write_exported_network() -> None:
    """The file that `istd export` writes."""
    network = Deployed(create_model("mlclnet"))
    export_onnx(network, Path("mlclnet.onnx"), {"threshold": 0.5}, "trace")


FILES = {"istd/weights.md": write_published_weights, "istd/use.md": write_exported_network}
"""Page → what makes the files that a reader has there."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a snippet writes
    name = page.relative_to(DOCS).as_posix()
    with torch.random.fork_rng(devices=[]):
        FILES.get(name, lambda: None)()
        names = run(page)
    if name == "istd/weights.md":  # the file that the page wrote is the network that it loaded
        again = load_detector("mshnet.safetensors").logits(names["image"]).sigmoid()
        torch.testing.assert_close(again, names["probability"])
    if name == "istd/use.md":
        assert names["mask"].shape == names["gray"].shape


def test_pages_were_found() -> None:
    found = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert {
        "index.md",
        "guide/losses.md",
        "guide/coming-from.md",
        "guide/add-a-method.md",
        "istd/weights.md",
    } <= found
