"""Every public name of `bilevel` and `istd` stands on an API page, and every name there exists."""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import bilevel
import istd

API = Path(__file__).resolve().parents[2] / "docs" / "api"
ISTD = API.parent / "istd" / "api.md"
PACKAGES = (
    "bilevel",
    "bilevel.diagnostics",
    "bilevel.hypergradients",
    "bilevel.linear_solvers",
    "bilevel.logging",
    "bilevel.optim",
    "bilevel.reweighting",
)


def directives(pages: Iterable[Path] = ()) -> list[str]:
    return [
        name
        for page in pages or sorted(API.glob("*.md"))
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_documented_name_exists_once() -> None:
    found = [resolve(path) for path in directives()]
    assert len(found) > 60
    assert len({id(one) for one in found}) == len(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    documented = {id(resolve(path)) for path in directives()}
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    missing = [
        name
        for name, value in public.items()
        if not isinstance(value, types.ModuleType) and id(value) not in documented
    ]
    assert missing == []


def istd_packages() -> list[str]:
    folder = Path(istd.__file__).parent
    found = [".".join(init.parent.relative_to(folder.parent).parts) for init in folder.rglob("__init__.py")]
    return sorted(set(found) - {"istd.cli"})  # its commands are the interface


def test_the_page_of_istd_has_what_people_need() -> None:
    text = ISTD.read_text(encoding="utf-8")
    names = directives([ISTD])
    found = {id(resolve(name)) for name in names}
    assert [name for name in istd.__all__ if id(getattr(istd, name)) not in found] == []
    assert set(re.findall(r"\(#([\w.]+)\)", text)) <= set(names)


def test_the_page_of_istd_describes_or_lists_every_public_name() -> None:
    """And no other: what it describes or lists is public where it says so."""
    described = {id(resolve(name)): name for name in directives([ISTD])}
    rows = re.findall(r"^\| `(istd[\w.]*)` \| (.*) \|$", ISTD.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {package: set(re.findall(r"`(\w+)`", names)) for package, names in rows}
    for package in istd_packages():
        module = importlib.import_module(package)
        others = {name for name in module.__all__ if id(getattr(module, name)) not in described}
        assert others == listed.get(package, set()), package
    homes = {name: importlib.import_module(name.rpartition(".")[0]) for name in described.values()}
    packages = {name: home for name, home in homes.items() if home.__name__ in istd_packages()}
    assert [name for name, home in packages.items() if name.rpartition(".")[2] not in home.__all__] == []


def test_every_error_is_documented() -> None:
    documented = {id(resolve(path)) for path in directives()}
    own = [value for value in vars(bilevel.errors).values() if isinstance(value, type)]
    errors = [value for value in own if issubclass(value, Exception)]
    assert [error.__name__ for error in errors if id(error) not in documented] == []


def test_packages_are_all_there_is() -> None:
    folder = Path(bilevel.__file__).parent
    found = {f"bilevel.{init.parent.name}" for init in folder.glob("*/__init__.py")}
    assert found == set(PACKAGES) - {"bilevel"}
