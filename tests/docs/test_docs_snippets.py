"""Every ```python block of the documentation runs, page by page, as a reader would type it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"
_FENCE = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a snippet writes
    with torch.random.fork_rng(devices=[]):
        run(page)


def test_pages_were_found() -> None:
    found = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert {"index.md", "guide/losses.md", "guide/coming-from.md", "guide/add-a-method.md"} <= found
